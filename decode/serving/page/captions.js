// A transcript as txt, srt or vtt: the same text as decode/recordings/outputs.py writes.
// Segments are {start, end (seconds), text}. Lengths are in code points, as Python's.

const LINE = 42, LINES = 2, SECONDS = 7.0, SLACK = 10;
const MOST = LINE * LINES;

export const FORMATS = {
  txt: {
    type: "text/plain",
    write: (segments) => segments.map((s) => `${oneLine(s.text)}\n`).join(""),
  },
  srt: {
    type: "application/x-subrip",
    write: (segments) => captions(segments).map(([start, end, text], i) =>
      `${i + 1}\n${clock(start, ",")} --> ${clock(end, ",")}\n${text.replaceAll("-->", "->")}\n`).join("\n"),
  },
  vtt: {
    type: "text/vtt",
    write: (segments) => ["WEBVTT\n", ...captions(segments).map(([start, end, text]) =>
      `${clock(start, ".")} --> ${clock(end, ".")}\n${escaped(text)}\n`)].join("\n"),
  },
};

export function oneLine(text) {
  return text.replace(/[\p{C}\p{Z}\s]+/gu, " ").trim();
}

function captions(segments) {
  const cues = [];
  for (const { start, end, text } of segments) {
    const parts = split(oneLine(text), end - start);
    const total = parts.reduce((sum, part) => sum + size(part), 0);
    let begin = milliseconds(start), before = 0;
    for (const part of parts) {
      before += size(part);
      const until = Math.max(begin + 1, milliseconds(start + (end - start) * before / total));
      let lines = wrap(part, LINE);
      if (lines.length > LINES) lines = wrap(part, Math.floor(MOST * 2 / 3));
      cues.push([begin, until, lines.join("\n")]);
      begin = until;
    }
  }
  return cues;
}

function split(text, seconds) {
  const length = size(text);
  const count = Math.max(1, Math.ceil(length / MOST), Math.round(seconds / SECONDS));
  return wrap(text, Math.min(MOST, Math.ceil(length / count) + SLACK));
}

// Lines of at most `width` characters, broken at spaces; a longer word is cut.
function wrap(text, width) {
  const lines = [];
  let line = [];
  for (const word of text.split(" ").filter(Boolean)) {
    let rest = [...word];
    if (line.length && line.length + 1 + rest.length <= width) {
      line.push(" ", ...rest);
      continue;
    }
    if (line.length && (rest.length <= width || line.length + 1 >= width)) {
      lines.push(line);
      line = [];
    }
    if (line.length) {
      line.push(" ", ...rest.splice(0, width - line.length - 1));
      lines.push(line);
      line = [];
    }
    while (rest.length > width) lines.push(rest.splice(0, width));
    line = rest;
  }
  if (line.length) lines.push(line);
  return lines.map((one) => one.join(""));
}

function clock(milliseconds, point) {
  const seconds = Math.floor(milliseconds / 1000);
  const two = (number) => String(number).padStart(2, "0");
  return `${two(Math.floor(seconds / 3600))}:${two(Math.floor(seconds / 60) % 60)}:${two(seconds % 60)}`
    + point + String(milliseconds % 1000).padStart(3, "0");
}

const size = (text) => [...text].length;
const milliseconds = (seconds) => Math.round(seconds * 1000);
const escaped = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
