// Recording from the microphone, with a level that moves.

import { sized, time } from "./player.js";
import { peaks } from "./sound.js";

// Resolves to the recording, as the browser makes it (a Blob), or null if it was discarded. Rejects where there is no
// microphone or it may not be used. `started()` is called once it records. The browser's filters for calls, which
// distort speech, are off; only the gain is automatic.
export async function record(root, started) {
  const constraints = { echoCancellation: false, noiseSuppression: false, autoGainControl: true, channelCount: 1 };
  const stream = await navigator.mediaDevices.getUserMedia({ audio: constraints });
  const recorder = new MediaRecorder(stream, { audioBitsPerSecond: 128000 });
  const context = new AudioContext(), analyser = new AnalyserNode(context), parts = [];
  context.createMediaStreamSource(stream).connect(analyser);
  recorder.ondataavailable = (event) => parts.push(event.data);
  recorder.start();
  started();
  const stop = drawing(root, analyser);
  root.querySelector("#stop").focus();
  const keep = await new Promise((resolve) => {
    root.querySelector("#stop").onclick = () => resolve(true);
    root.querySelector("#discard").onclick = () => resolve(false);
    recorder.onstop = () => resolve(true); // the microphone was unplugged
  });
  stop();
  if (recorder.state !== "inactive") await new Promise((resolve) => { recorder.onstop = resolve, recorder.stop(); });
  stream.getTracks().forEach((track) => track.stop());
  await context.close();
  return keep ? new Blob(parts, { type: recorder.mimeType }) : null;
}

// Shows the time and the loudness until the function that it returns is called.
function drawing(root, analyser) {
  const [canvas, elapsed] = [root.querySelector("canvas"), root.querySelector("#elapsed")];
  const began = performance.now(), levels = [], window = new Float32Array(analyser.fftSize);
  const tick = () => {
    elapsed.textContent = time((performance.now() - began) / 1000);
    analyser.getFloatTimeDomainData(window);
    levels.push(peaks(window, 1)[0]);
    const { width, height } = canvas.getBoundingClientRect(), context = sized(canvas, width, height);
    context.fillStyle = getComputedStyle(canvas).color;
    for (let back = 0; back < width / 4; back++) {
      const tall = Math.max(2, (levels.at(-1 - back) ?? 0) * height);
      context.fillRect(width - 4 * (back + 1), (height - tall) / 2, 2.5, tall);
    }
  };
  tick();
  const timer = setInterval(tick, 60);
  return () => clearInterval(timer);
}
