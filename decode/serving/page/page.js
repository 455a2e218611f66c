// What the page does, in order: a recording is chosen, dropped or made; sent; its transcript is shown as it comes.

import { FORMATS } from "./captions.js";
import { record } from "./microphone.js";
import { makePlayer, time } from "./player.js";
import { models, transcribe } from "./server.js";
import { RATE, decode, isRead, peaks, wav } from "./sound.js";
import { isTimed, makeTranscript } from "./transcript.js";

const PEAKS = 4000; // kept of a recording: more than a screen has bars
const TRIES = 6; // of a recording that a busy server sends away
const WAIT = 2; // seconds before the next, where the server does not say
const FINAL = [400, 401, 413, 415, 422]; // the same will be refused again

const $ = (id) => document.getElementById(id);
const transcript = makeTranscript($("transcript"), (seconds) => player.playFrom(seconds));
const player = makePlayer($("player"), transcript.follow);
let token = ""; // in memory alone
let model = ""; // as /v1/models names it
let job = null; // the recording that is shown: {name, upload, abort, segments}

// A recording.

async function take(file, name) {
  if (!file.size) return complain("This file is empty", name);
  job?.abort.abort();
  const mine = job = { name, upload: isRead(name) ? file : null, abort: new AbortController(), segments: [] };
  document.body.classList.add("used");
  $("recording").hidden = false;
  $("name").textContent = name;
  $("facts").textContent = bytes(file.size);
  if (mine.upload) send(mine);
  else begin("Reading the recording …");
  const seconds = await player.load(file);
  const wave = job === mine ? await decode(file, seconds) : null;
  if (job !== mine) return;
  const length = wave ? wave.length / RATE : Number.isFinite(seconds) ? seconds : 0;
  const missing = wave ? "" : seconds > 0 ? "no waveform" : "this browser cannot play it";
  $("facts").textContent = [length && time(length), bytes(file.size), missing].filter(Boolean).join(" · ");
  player.show(wave && peaks(wave, PEAKS), length);
  player.mark(mine.segments.filter(isTimed));
  if (mine.upload) return;
  mine.upload = wave ? wav(wave) : file;
  if (wave) mine.name = `${stem(name)}.wav`;
  send(mine);
}

async function send(mine) {
  mine.abort = new AbortController();
  mine.segments = [];
  begin("Waiting for the server …");
  $("cancel").hidden = false;
  const began = performance.now();
  try {
    finish(mine, await sendUntilTaken(mine), (performance.now() - began) / 1000);
  } catch (error) {
    if (job === mine) fail(mine, error);
  }
}

// Sends it again as long as the server says that it is busy.
async function sendUntilTaken(mine) {
  const { signal } = mine.abort;
  for (let tries = 1; ; tries++) {
    try {
      return await transcribe(mine.upload, mine.name, model, token, signal, {
        sent(share) {
          transcript.progress(share < 1 ? share : null);
          transcript.say(share < 1 ? `Sending, ${Math.floor(share * 10) * 10} %` : "Transcribing …"); // read out
        },
        delta(text) { // where segments come, they hold the text
          if (!mine.segments.length) transcript.append(text);
        },
        segment(segment) {
          transcript.place(segment);
          mine.segments.push(segment);
          player.mark(mine.segments.filter(isTimed));
        },
      });
    } catch (error) {
      if (error.status !== 429 || tries === TRIES) throw error;
      for (let left = Math.ceil(error.retryAfter ?? WAIT); left > 0; left--) {
        transcript.say(`${error.title}. Next try in ${left} s`);
        await pause(1000, signal);
      }
    }
  }
}

function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    signal.addEventListener("abort", () => reject(signal.reason));
    setTimeout(resolve, milliseconds);
  });
}

function begin(status) {
  for (const id of ["message", "access", "results", "cancel"]) $(id).hidden = true;
  player.mark([]);
  transcript.begin(status);
}

function finish(mine, result, seconds) {
  if (result.segments) mine.segments = result.segments;
  else if (!mine.segments.length && result.text.trim()) mine.segments = [{ text: result.text }]; // no times
  const some = mine.segments.length > 0;
  transcript.show([...mine.segments]);
  player.mark(mine.segments.filter(isTimed));
  const audio = result.duration > 0 ? `${result.duration.toFixed(1)} s of audio ` : "";
  transcript.end(some ? `${audio}in ${seconds.toFixed(1)} s` : "No speech was found in this recording");
  $("cancel").hidden = true;
  $("results").hidden = !some;
  $("downloads").hidden = !mine.segments.every(isTimed);
}

// What has come so far stays.
function fail(mine, error) {
  const some = mine.segments.length > 0;
  transcript.end(some ? "Incomplete" : "");
  $("cancel").hidden = true;
  $("results").hidden = !some;
  if (error.name === "AbortError") {
    complain("Cancelled", "", true);
    $("message").classList.add("quiet");
    $("again").focus();
  } else {
    complain(error.title ?? "This page failed", error.message, !FINAL.includes(error.status));
    if (error.status === 401) askForToken();
  }
}

// An error in one line; `again` where the same recording may be sent again.
function complain(title, detail, again = false) {
  const strong = document.createElement("strong");
  strong.textContent = title;
  $("message").firstElementChild.replaceChildren(strong, detail ? `: ${detail}` : "");
  $("message").classList.remove("quiet");
  $("message").hidden = false;
  $("again").hidden = !again;
}

const bytes = (count) => (count < 1e6 ? `${Math.ceil(count / 1e3)} kB` : `${(count / 1e6).toFixed(1)} MB`);
const stem = (name) => name.replace(/\.[^.]*$/, "") || name;

// The microphone.

async function recordAndTake() {
  $("message").hidden = $("record").disabled = true;
  let blob;
  try {
    blob = await record($("recorder"), () => {
      player.pause();
      $("offer").hidden = true;
      $("recorder").hidden = false;
    });
  } catch (error) {
    const detail = error.name === "NotAllowedError" ? "allow this page to use it, beside the address." : error.message;
    return complain("No microphone", detail);
  } finally {
    $("recorder").hidden = true;
    $("offer").hidden = false;
    $("record").disabled = false;
    $("record").focus();
  }
  if (!blob) return;
  const wave = await decode(blob, Infinity);
  const now = new Date(Date.now() - new Date().getTimezoneOffset() * 60000).toISOString();
  if (wave) take(wav(wave), `recording ${now.slice(0, 10)} ${now.slice(11, 19).replaceAll(":", ".")}.wav`);
  else complain("This browser cannot read its own recording", blob.type);
}

// Out of the page.

async function copy() {
  const text = FORMATS.txt.write(job.segments);
  try {
    await navigator.clipboard.writeText(text);
  } catch { // neither https nor this machine
    getSelection().selectAllChildren(transcript.list);
    document.execCommand("copy");
  }
  $("copy").textContent = "Copied";
  setTimeout(() => { $("copy").textContent = "Copy"; }, 1500);
}

function download(format) {
  const { type, write } = FORMATS[format];
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([write(job.segments)], { type }));
  link.download = `${stem(job.name)}.${format}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

// The server.

// Whether it said which model it is.
async function meet() {
  try {
    const names = await models(token);
    model = names[0] ?? "";
    $("model").textContent = names.join(", ");
    return true;
  } catch (error) {
    complain(error.title, error.message);
    if (error.status === 401) askForToken();
    return false;
  }
}

function askForToken() {
  $("access").hidden = false;
  $("message").hidden = !token; // none was sent: the field says enough
  $("token").focus();
}

$("access").addEventListener("submit", async (event) => {
  event.preventDefault();
  token = $("token").value.trim();
  $("token").value = "";
  $("message").hidden = $("access").hidden = true;
  if (await meet() && job?.upload && $("results").hidden) send(job);
});

$("choose").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", () => {
  const [file] = $("file").files;
  if (file) take(file, file.name);
  $("file").value = ""; // so that the same file can be chosen again
});
$("cancel").addEventListener("click", () => job.abort.abort());
$("again").addEventListener("click", () => {
  send(job);
  $("cancel").focus();
});
$("copy").addEventListener("click", copy);
for (const button of document.querySelectorAll("[data-format]")) {
  button.addEventListener("click", () => download(button.dataset.format));
}
if (navigator.mediaDevices && window.MediaRecorder) {
  $("record").addEventListener("click", recordAndTake);
} else {
  $("record").disabled = true;
  $("record").title = "Browsers record only over https, or from a server on this machine";
}

let inside = 0; // of elements that something is dragged over
const isFile = (event) => event.dataTransfer?.types.includes("Files");
addEventListener("dragenter", (event) => { if (isFile(event)) document.body.classList.toggle("over", ++inside > 0); });
addEventListener("dragleave", (event) => { if (isFile(event)) document.body.classList.toggle("over", --inside > 0); });
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  inside = 0;
  document.body.classList.remove("over");
  const { files } = event.dataTransfer;
  if (files.length > 1) complain("One recording at a time", `${files.length} files were dropped.`);
  else if (files.length) take(files[0], files[0].name);
});

meet();
