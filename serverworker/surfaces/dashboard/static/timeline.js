// What happened to the session, newest first: crashes, restarts, deploys, and what operators did.

import { byId, el, time } from "./text.js";

const SHOWN = 100;

// Each kind of event that stands here, and the word before it.
const WORDS = {
  SessionStarted: "session",
  PreviousSession: "session",
  SessionEnding: "session",
  SessionEnded: "session",
  WorkerDied: "crash",
  RestartStarted: "restart",
  RestartCompleted: "deploy",
  RestartFailed: "failed deploy",
  HeartbeatFailed: "heartbeat",
  HeartbeatRecovered: "heartbeat",
  OperatorAction: "operator",
  PortChanged: "operator",
  PollingChanged: "operator",
  LoginFailed: "login",
  OutputDropped: "output",
  NotificationFailed: "telling",
  NotificationsDropped: "telling",
  Fault: "fault",
  CertificateInUse: "certificate",
  CertificateExpiring: "certificate",
};
export const KINDS = Object.keys(WORDS).concat("ServerRunning");

const TONES = { crash: "bad", "failed deploy": "bad", fault: "bad", deploy: "good" };

export class Timeline {
  constructor(charts) {
    this.charts = charts;
    this.clear();
  }

  clear() {
    this.entries = [];
    this.keys = new Set();
    this.nodes = new Map();
    byId("timeline").replaceChildren();
    this.versions = new Map();
    this.changed = true;
    this.charts.marks = [];
    this.show();
  }

  // From the journal, oldest first; the stream may have told the newest of them already.
  addOld(events) {
    for (const event of events) this.add(event);
    this.entries.sort((one, other) => (one.at < other.at ? -1 : one.at > other.at ? 1 : one.sequence - other.sequence));
    this.show();
  }

  add(event) {
    if (event.event === "ServerRunning" && event.fields.version) {
      this.versions.set(`${event.fields.generation}`, event.fields.version);
    }
    const key = keyOf(event);
    if (!WORDS[event.event] || this.keys.has(key)) return;
    this.keys.add(key);
    this.entries.push(event);
    this.changed = true;
    if (event.event === "WorkerDied") this.charts.mark(event.at, "crash");
    if (event.event === "RestartCompleted") this.charts.mark(event.at, "restart");
    while (this.entries.length > 3 * SHOWN) {
      this.keys.delete(keyOf(this.entries.shift()));
    }
  }

  // What is there stays: whoever reads it keeps the place.
  show() {
    if (!this.changed) return;
    this.changed = false;
    const list = byId("timeline");
    const newest = this.entries.slice(-SHOWN).reverse();
    const keys = new Set(newest.map(keyOf));
    for (const [key, node] of this.nodes) {
      if (keys.has(key)) continue;
      node.remove();
      this.nodes.delete(key);
    }
    newest.forEach((event, number) => {
      const key = keyOf(event);
      if (!this.nodes.has(key)) this.nodes.set(key, this.entry(event));
      const node = this.nodes.get(key);
      if (list.children[number] !== node) list.insertBefore(node, list.children[number] ?? null);
    });
    byId("timeline-empty").hidden = newest.length > 0;
  }

  entry(event) {
    const word = WORDS[event.event];
    const tone = TONES[word] ?? (event.level === "warn" ? "warn" : "");
    const version = event.event === "RestartCompleted" ? this.versions.get(`${event.fields.generation}`) : "";
    const sentence = version ? `${event.sentence} (version ${version})` : event.sentence;
    return el("li", { class: tone },
      time(event.at), el("span", { class: `badge ${tone}` }, word), el("span", { class: "sentence" }, sentence));
  }
}

// Of earlier sessions too, whose numbers are the same.
function keyOf(event) {
  return `${event.at} ${event.sequence} ${event.event}`;
}
