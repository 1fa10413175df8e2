// What workers print, live. The newest lines are kept; fewer are shown, so that the page stays quick.

import { byId, el, say, time } from "./text.js";

const KEPT = 3000;
const SHOWN = 500;
const NEAR_PIXELS = 40;

export class Logs {
  constructor() {
    this.paused = false;
    this.waiting = false;
    this.clear();
    byId("log-filter").addEventListener("input", () => this.again());
    byId("log-source").addEventListener("change", () => this.again());
    byId("log-pause").addEventListener("click", () => {
      this.paused = !this.paused;
      byId("log-pause").setAttribute("aria-pressed", `${this.paused}`);
      this.again();
    });
  }

  clear() {
    this.lines = [];
    this.fresh = [];
    this.sources = new Set();
    byId("log-source").replaceChildren(el("option", { value: "" }, "all workers"));
    byId("lines").replaceChildren();
    say(byId("log-count"), "");
  }

  add(event) {
    const line = { at: event.at, source: event.source, text: event.fields.text, stream: event.fields.stream };
    this.lines.push(line);
    this.fresh.push(line);
    if (this.lines.length > 2 * KEPT) this.lines = this.lines.slice(-KEPT);
    if (this.fresh.length > 2 * KEPT) this.fresh = this.fresh.slice(-KEPT);
    if (!this.sources.has(line.source)) {
      this.sources.add(line.source);
      byId("log-source").append(el("option", { value: line.source }, line.source));
    }
  }

  // At most once a frame, however many lines come.
  show() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.draw();
    });
  }

  draw() {
    if (this.paused) {
      say(byId("log-count"), this.fresh.length ? `paused; ${this.fresh.length} more` : "paused");
      return;
    }
    const box = byId("lines");
    const follows = box.scrollHeight - box.scrollTop - box.clientHeight < NEAR_PIXELS;
    const lines = this.fresh.filter((line) => this.matches(line)).slice(-SHOWN);
    this.fresh = [];
    box.append(...lines.map(shown));
    while (box.children.length > SHOWN) box.firstChild.remove();
    if (follows && lines.length) box.scrollTop = box.scrollHeight;
    say(byId("log-count"), "");
  }

  again() {
    if (this.paused) {
      this.draw();
      return;
    }
    byId("lines").replaceChildren();
    this.fresh = this.lines.slice();
    this.draw();
    byId("lines").scrollTop = byId("lines").scrollHeight;
  }

  matches(line) {
    const source = byId("log-source").value;
    const filter = byId("log-filter").value.toLowerCase();
    return (!source || line.source === source) && (!filter || line.text.toLowerCase().includes(filter));
  }
}

function shown(line) {
  return el("div", { class: line.stream === "stderr" ? "line err" : "line" },
    time(line.at), el("span", { class: "source" }, line.source), el("span", { class: "said" }, line.text));
}
