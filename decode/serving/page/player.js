// The waveform with the segments on it, and playing: a slider to be clicked, dragged or moved with the arrow keys.

const BAR = 2, GAP = 1; // pixels
const QUIET = 0.05; // a peak below this is not drawn as if it were loud
const STEP = 2; // seconds that an arrow key moves
const still = matchMedia("(prefers-reduced-motion: reduce)");

// `moved(seconds, playing)` is called as the position changes.
export function makePlayer(root, moved) {
  const [audio, wave, canvas, play, clock] = ["audio", "#wave", "canvas", "#play", "#clock"]
    .map((name) => root.querySelector(name));
  let peaks = null, loudestOfAll = 1, seconds = 0, segments = [], address = "";

  // Resolves to the seconds of a recording, NaN where this browser cannot play it.
  async function load(blob) {
    clear();
    address = URL.createObjectURL(blob);
    audio.src = address;
    await new Promise((resolve) => { audio.onloadedmetadata = audio.onerror = resolve; });
    return audio.error ? NaN : audio.duration;
  }

  // Shows it: its peaks (null: a line instead of a waveform) and its seconds.
  function show(newPeaks, newSeconds) {
    [peaks, seconds] = [newPeaks, newSeconds];
    loudestOfAll = peaks ? Math.max(QUIET, peaks.reduce((most, peak) => Math.max(most, peak), 0)) : 1;
    root.hidden = !(seconds > 0);
    wave.setAttribute("aria-valuemax", seconds.toFixed(1));
    update();
  }

  function mark(newSegments) {
    segments = newSegments;
    draw();
  }

  function clear() {
    audio.pause();
    audio.removeAttribute("src");
    URL.revokeObjectURL(address);
    [peaks, seconds, segments, root.hidden] = [null, 0, [], true];
  }

  function playFrom(at) {
    audio.currentTime = at;
    audio.play();
  }

  function seek(at) {
    audio.currentTime = Math.max(0, Math.min(seconds, at));
    update();
  }

  const toggle = () => (audio.paused ? audio.play() : audio.pause());

  function update() {
    const at = Math.min(audio.currentTime, seconds);
    clock.textContent = `${time(at)} / ${time(seconds)}`;
    wave.setAttribute("aria-valuenow", at.toFixed(1));
    wave.setAttribute("aria-valuetext", `${time(at)} of ${time(seconds)}`);
    play.setAttribute("aria-label", audio.paused ? "Play" : "Pause");
    play.classList.toggle("playing", !audio.paused);
    moved(at, !audio.paused);
    draw();
  }

  function everyFrame() {
    update();
    if (!audio.paused && !still.matches) requestAnimationFrame(everyFrame);
  }

  function draw() {
    const { width, height } = wave.getBoundingClientRect();
    if (!width || !seconds) return;
    const context = sized(canvas, width, height);
    const style = getComputedStyle(wave);
    const [band, bandNow, played, toPlay, ink] = ["--band", "--band-now", "--played", "--bars", "--ink"]
      .map((name) => style.getPropertyValue(name));
    const x = (at) => at / seconds * width;
    const playhead = x(Math.min(audio.currentTime, seconds));
    for (const segment of segments) {
      const inside = audio.currentTime >= segment.start && audio.currentTime < segment.end;
      context.fillStyle = inside ? bandNow : band;
      context.beginPath();
      context.roundRect(x(segment.start), 0, Math.max(2, x(segment.end) - x(segment.start) - 1), height, 4);
      context.fill();
    }
    const bars = Math.floor(width / (BAR + GAP)), middle = height / 2, room = middle - 8;
    for (let bar = 0; bar < bars; bar++) {
      const left = bar * (BAR + GAP), half = Math.max(0.75, room * loudest(bar, bars) / loudestOfAll);
      context.fillStyle = left < playhead ? played : toPlay;
      context.fillRect(left, middle - half, BAR, 2 * half);
    }
    context.fillStyle = ink;
    context.fillRect(Math.min(width - 1.5, Math.max(0, playhead - 0.75)), 0, 1.5, height);
  }

  function loudest(bar, bars) {
    if (!peaks) return 0;
    const first = Math.floor(bar * peaks.length / bars), end = Math.ceil((bar + 1) * peaks.length / bars);
    return peaks.subarray(first, Math.max(end, first + 1)).reduce((most, peak) => Math.max(most, peak), 0);
  }

  const pointed = (event) => {
    const { left, width } = wave.getBoundingClientRect();
    return Math.max(0, Math.min(1, (event.clientX - left) / width)) * seconds;
  };
  wave.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    wave.setPointerCapture(event.pointerId);
    playFrom(pointed(event));
  });
  wave.addEventListener("pointermove", (event) => {
    if (wave.hasPointerCapture(event.pointerId)) seek(pointed(event));
  });
  wave.addEventListener("keydown", (event) => {
    const action = {
      ArrowLeft: () => seek(audio.currentTime - STEP), ArrowRight: () => seek(audio.currentTime + STEP),
      ArrowDown: () => seek(audio.currentTime - STEP), ArrowUp: () => seek(audio.currentTime + STEP),
      Home: () => seek(0), End: () => seek(seconds), " ": toggle, Enter: toggle,
    }[event.key];
    if (!action || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    action();
  });
  play.addEventListener("click", toggle);
  audio.addEventListener("play", everyFrame);
  for (const kind of ["pause", "seeked", "timeupdate", "ended"]) audio.addEventListener(kind, update);
  new ResizeObserver(draw).observe(wave);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  return { load, show, mark, playFrom, pause: () => audio.pause() };
}

// A canvas's context, cleared, in CSS pixels at the screen's own resolution.
export function sized(canvas, width, height) {
  const scale = devicePixelRatio || 1;
  [canvas.width, canvas.height] = [Math.round(width * scale), Math.round(height * scale)];
  const context = canvas.getContext("2d");
  context.scale(scale, scale);
  return context;
}

// 1:02:03 or 2:03
export function time(seconds) {
  const whole = Math.floor(seconds), two = (number) => String(number).padStart(2, "0");
  const hours = Math.floor(whole / 3600), minutes = Math.floor(whole / 60) % 60;
  return hours ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
}
