// The transcript as it is seen: a list of segments that grows, and a line that says how far it is.
// Text of the server goes in as text alone (textContent), never as markup.

import { time } from "./player.js";

// `play(seconds)` is called for a click on a segment's time.
export function makeTranscript(root, play) {
  const [list, status, bar] = ["#segments", "#status", "#progress"].map((name) => root.querySelector(name));
  let segments = [], live = null;

  function begin(message) {
    root.hidden = false;
    list.setAttribute("aria-busy", "true"); // read out once it is whole
    show([]);
    progress(0);
    say(message);
  }

  function end(message) {
    list.setAttribute("aria-busy", "false");
    bar.hidden = true;
    live?.remove();
    root.hidden = !message && !segments.length;
    say(message);
  }

  const say = (message) => { status.textContent = message; };

  // 0 to 1; null for an unknown share
  function progress(share) {
    bar.hidden = false;
    if (share === null) bar.removeAttribute("value");
    else bar.value = share;
  }

  function show(newSegments) {
    segments = newSegments;
    live = null;
    list.replaceChildren(...segments.map(row));
  }

  // Text whose times are not known yet is at the end.
  function append(text) {
    if (!live) {
      live = row({ text: "" });
      live.classList.add("live");
      list.append(live);
    }
    live.lastElementChild.append(text);
  }

  // The times of what was appended.
  function place(segment) {
    live?.remove();
    live = null;
    segments.push(segment);
    list.append(row(segment));
  }

  function row(segment) {
    const item = document.createElement("li"), text = document.createElement("p");
    text.textContent = segment.text.trim();
    text.dir = "auto";
    if (isTimed(segment)) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = time(segment.start);
      button.title = `${segment.start.toFixed(2)} to ${segment.end.toFixed(2)} s`;
      button.setAttribute("aria-label", `Play from ${time(segment.start)}`);
      button.addEventListener("click", () => play(segment.start));
      item.append(button);
    }
    item.append(text);
    return item;
  }

  // Highlights the segment that is heard.
  function follow(seconds, playing) {
    [...list.children].forEach((item, index) => {
      const segment = segments[index];
      item.classList.toggle("now", Boolean(playing && segment && seconds >= segment.start && seconds < segment.end));
    });
  }

  return { begin, end, say, progress, show, append, place, follow, list };
}

export const isTimed = (segment) => segment.end > segment.start;
