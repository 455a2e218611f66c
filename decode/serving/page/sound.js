// Sound in the browser: decoding, peaks, 16 kHz WAV.

export const RATE = 16000;
const LONGEST = 2 * 3600; // seconds that are decoded here: samples of all channels take 4 bytes each
const LARGEST = 64e6; // bytes of what does not say how long it is, as MediaRecorder's own files

// What the server reads (data_prep/audio/decode.py, EXTENSIONS); anything else is decoded here and sent as WAV.
const READ = "flac wav ogg oga opus mp3 aiff aif aifc au caf w64 sph rf64".split(" ");

export const isRead = (name) => READ.includes(name.slice(name.lastIndexOf(".") + 1).toLowerCase());

// Float32Array at 16 kHz, channels averaged; null where the browser cannot decode it, or it is long. `seconds`: of it,
// NaN where it cannot be played, Infinity where it does not say.
export async function decode(blob, seconds) {
  if (!(seconds <= LONGEST || (seconds === Infinity && blob.size <= LARGEST))) return null;
  try {
    const context = new OfflineAudioContext(1, 1, RATE);
    const sound = await context.decodeAudioData(await blob.arrayBuffer());
    const wave = sound.getChannelData(0).slice();
    for (let channel = 1; channel < sound.numberOfChannels; channel++) {
      const other = sound.getChannelData(channel);
      for (let i = 0; i < wave.length; i++) wave[i] += other[i];
    }
    if (sound.numberOfChannels > 1) for (let i = 0; i < wave.length; i++) wave[i] /= sound.numberOfChannels;
    return wave;
  } catch {
    return null;
  }
}

// 16-bit mono WAV at 16 kHz of samples in -1 to 1.
export function wav(wave) {
  const bytes = new DataView(new ArrayBuffer(44 + 2 * wave.length));
  const text = (at, word) => [...word].forEach((letter, i) => bytes.setUint8(at + i, letter.charCodeAt(0)));
  text(0, "RIFF"), bytes.setUint32(4, 36 + 2 * wave.length, true), text(8, "WAVEfmt ");
  bytes.setUint32(16, 16, true); // bytes of the format that follows
  bytes.setUint16(20, 1, true), bytes.setUint16(22, 1, true); // PCM, one channel
  bytes.setUint32(24, RATE, true), bytes.setUint32(28, 2 * RATE, true);
  bytes.setUint16(32, 2, true), bytes.setUint16(34, 16, true);
  text(36, "data"), bytes.setUint32(40, 2 * wave.length, true);
  for (let i = 0; i < wave.length; i++) {
    bytes.setInt16(44 + 2 * i, Math.max(-32768, Math.min(32767, Math.round(wave[i] * 32768))), true);
  }
  return new Blob([bytes.buffer], { type: "audio/wav" });
}

// The largest magnitude of each of at most `count` equal parts of the wave, 0 to 1.
export function peaks(wave, count) {
  const found = new Float32Array(Math.min(count, wave.length));
  for (let part = 0; part < found.length; part++) {
    const end = Math.floor((part + 1) * wave.length / found.length);
    let most = 0;
    for (let i = Math.floor(part * wave.length / found.length); i < end; i++) most = Math.max(most, Math.abs(wave[i]));
    found[part] = Math.min(1, most);
  }
  return found;
}
