// The server: which model it is, and a recording sent to it.

const TITLES = {
  0: "The connection to the server failed", 400: "This recording was refused",
  401: "The server does not accept this token", 403: "Not allowed", 404: "Not found",
  408: "The upload took too long", 413: "This recording is too large",
  415: "This is no recording that the server reads", 422: "This recording cannot be transcribed",
  429: "The server is busy", 500: "The server failed", 502: "The server does not answer",
  503: "The server takes no recordings now", 504: "The server does not answer in time",
};

export class Refusal extends Error {
  // status is 0 where there was no answer; retryAfter in seconds, if the server says when to come back
  constructor(status, message, retryAfter) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
    this.title = TITLES[status] ?? `The server answered ${status}`;
  }
}

// The names of the models. A Refusal where the server wants a token, or does not answer.
export async function models(token) {
  let answer;
  try {
    answer = await fetch("v1/models", { headers: authorization(token) });
  } catch {
    throw new Refusal(0, "is it running?");
  }
  if (!answer.ok) throw refusal(answer.status, await answer.text(), answer.headers.get("Retry-After"));
  return (await answer.json()).data.map((model) => model.id);
}

// Sends a recording. `on.sent(0 to 1)`, `on.delta(text)` and `on.segment({start, end, text})` are called as things
// happen. Resolves to {text, segments, duration, ...}; rejects with a Refusal, or an AbortError after `signal`.
// XMLHttpRequest, as fetch does not say how much of an upload has been sent.
export function transcribe(file, name, model, token, signal, on) {
  return new Promise((resolve, reject) => {
    const form = new FormData(), request = new XMLHttpRequest();
    form.append("model", model);
    form.append("response_format", "verbose_json");
    form.append("stream", "true");
    form.append("file", file, name); // last, so that the server knows what is asked before it reads the recording
    const read = eventReader((event) => {
      if (event.type === "transcript.text.delta") on.delta(event.delta);
      else if (event.type === "transcript.text.segment") on.segment(event);
      else if (event.type === "transcript.text.done") resolve(event);
      else if (event.error) reject(new Refusal(event.error.status ?? 500, event.error.message));
    });
    const isStream = () => request.status === 200
      && (request.getResponseHeader("Content-Type") ?? "").startsWith("text/event-stream");
    request.open("POST", "v1/audio/transcriptions");
    for (const [key, value] of Object.entries(authorization(token))) request.setRequestHeader(key, value);
    request.upload.onprogress = (event) => on.sent(event.loaded / Math.max(1, event.total));
    request.upload.onload = () => on.sent(1);
    const orReject = (act) => () => { // what cannot be parsed is an error too
      try {
        act();
      } catch (error) {
        reject(new Refusal(0, `its answer cannot be read: ${error.message}`));
      }
    };
    request.onprogress = orReject(() => { if (isStream()) read(request.responseText); });
    request.onload = orReject(() => {
      if (isStream()) {
        read(request.responseText);
        reject(new Refusal(0, "the transcript broke off")); // without effect where it is done
      } else if (request.status === 200) {
        resolve(JSON.parse(request.responseText));
      } else {
        reject(refusal(request.status, request.responseText, request.getResponseHeader("Retry-After")));
      }
    });
    request.onerror = () => reject(new Refusal(0, "it closed the connection, or is not running"));
    request.onabort = () => reject(new DOMException("cancelled", "AbortError"));
    signal.addEventListener("abort", () => request.abort());
    request.send(form);
  });
}

// A function to be given all text so far, which calls `handle` once for the JSON of each whole event.
function eventReader(handle) {
  const blank = /\r?\n\r?\n/g;
  let at = 0;
  return (text) => {
    blank.lastIndex = at;
    for (let end; (end = blank.exec(text)); at = blank.lastIndex) {
      const lines = text.slice(at, end.index).split(/\r?\n/).filter((line) => line.startsWith("data:"));
      const data = lines.map((line) => line.slice(5).trimStart()).join("\n");
      if (data && data !== "[DONE]") handle(JSON.parse(data));
    }
  };
}

function refusal(status, body, retryAfter) {
  let message = "";
  try {
    message = JSON.parse(body).error.message;
  } catch {
    // no JSON: a proxy's page; the title says enough
  }
  return new Refusal(status, message, Number(retryAfter) || undefined);
}

const authorization = (token) => (token ? { Authorization: `Bearer ${token}` } : {});
