// The session's head, and the table of workers. Cells are written in place: nothing jumps, and focus stays.

import { byId, count, duration, el, say, size } from "./text.js";

const COLUMNS = [
  ["Worker", (w) => `${w.id}`],
  ["State", (w) => w.life, (w) => w.cause || w.leaving || ""],
  ["Process", (w) => (w.pid == null ? "–" : `${w.pid}`)],
  ["Generation", (w) => (w.version ? `${w.generation} (${w.version})` : `${w.generation}`)],
  ["Up", (w, past) => duration(w.uptime_seconds + past)],
  ["Last heartbeat", (w, past, now) => heartbeat(w, past, now)],
  ["Requests", (w) => figure(w, (f) => `${f.requests_finished}`)],
  ["In flight", (w) => figure(w, (f) => `${f.in_flight}`)],
  ["Connections", (w) => figure(w, (f) => `${f.connections}`)],
  ["Memory", (w) => figure(w, (f) => size(f.resident_bytes))],
  ["CPU", (w) => (w.cpu == null ? "–" : `${w.cpu.toFixed(w.cpu < 10 ? 1 : 0)} %`)],
  ["Reactor lag", (w) => figure(w, (f) => duration(f.ping_seconds))],
];

const CPU_SECONDS = 2; // over less the kernel's clock of 10 ms is too coarse

function figure(worker, text) {
  return worker.figures ? text(worker.figures) : "–";
}

function heartbeat(worker, past, now) {
  const beat = worker.figures?.last_beat;
  if (!beat) return "–";
  const age = `${duration(Math.max(now - beat.at, 0) + past)} ago`;
  return beat.ok ? age : `failed (${beat.text}), ${age}`;
}

export class Workers {
  constructor() {
    this.status = null;
    this.cpu = new Map();
    this.rows = new Map();
    for (const [title] of COLUMNS) {
      byId("workers-head").append(el("th", { scope: "col", role: "columnheader" }, title));
    }
  }

  clear() {
    this.status = null;
    this.cpu.clear();
    this.rows.clear();
    byId("workers-body").replaceChildren();
    byId("facts").replaceChildren();
    say(byId("phase"), "");
  }

  take(status) {
    this.status = status;
    this.at = performance.now();
    const now = Date.parse(status.at) / 1000;
    for (const worker of status.workers) worker.cpu = this.share(worker.id, worker.figures?.cpu_seconds, now);
    status.monitor.cpu = this.share("monitor", status.monitor.cpu_seconds, now);
    this.tick();
  }

  // Percent of one core since the figure before.
  share(id, seconds, now) {
    if (seconds == null) return null;
    const known = this.cpu.get(id);
    if (!known) {
      this.cpu.set(id, { seconds, now, percent: null });
      return null;
    }
    if (now - known.now >= CPU_SECONDS) {
      const percent = Math.max((100 * (seconds - known.seconds)) / (now - known.now), 0);
      this.cpu.set(id, { seconds, now, percent });
    }
    return this.cpu.get(id).percent;
  }

  tick() {
    const status = this.status;
    if (!status) return;
    const stale = document.body.classList.contains("stale");
    const past = stale ? 0 : (performance.now() - this.at) / 1000;
    this.head(status, past);
    const now = Date.parse(status.at) / 1000;
    const ids = new Set(status.workers.map((worker) => worker.id));
    for (const [id, row] of this.rows) {
      if (ids.has(id)) continue;
      row.remove();
      this.rows.delete(id);
      this.cpu.delete(id);
    }
    for (const worker of status.workers) this.row(worker, past, now);
  }

  row(worker, past, now) {
    let row = this.rows.get(worker.id);
    if (!row) {
      row = el("tr", { role: "row" });
      COLUMNS.forEach(([title], number) => {
        row.append(number
          ? el("td", { role: "cell", "data-title": title })
          : el("th", { scope: "row", role: "rowheader", "data-title": title }));
      });
      this.rows.set(worker.id, row);
      byId("workers-body").append(row);
    }
    row.className = `life-${worker.life}`;
    COLUMNS.forEach(([, text, title], number) => {
      const cell = row.children[number];
      say(cell, text(worker, past, now));
      const more = title ? title(worker) : "";
      if (more && cell.title !== more) cell.title = more;
    });
    row.classList.toggle("failing", worker.heartbeat_failures > 0);
  }

  head(status, past) {
    say(byId("phase"), phase(status));
    byId("phase").className = `badge ${tone(status)}`;
    const versions = [...new Set(status.workers.filter((w) => w.life === "serving").map((w) => w.version).filter(Boolean))];
    const facts = [
      ["Serving", `${status.serving} of ${status.count}`],
      ["Version", versions.join(", ") || "not said"],
      ["Generation", `${status.generation}`],
      ["Session up", duration(status.uptime_seconds + past)],
      ["Ports", status.ports.map((port) => port.replace("=", " on ")).join(", ")],
      ["Polls every", duration(status.polling_interval_seconds)],
      ["Monitor", `pid ${status.pid}, ${size(status.monitor.resident_bytes)}${status.monitor.cpu == null ? "" : `, ${status.monitor.cpu.toFixed(1)} % CPU`}`],
    ];
    const list = byId("facts");
    if (!list.children.length) {
      for (const [name] of facts) list.append(el("div", {}, el("dt", {}, name), el("dd")));
    }
    facts.forEach(([, value], number) => say(list.children[number].lastChild, value));
  }
}

function phase(status) {
  if (status.phase !== "running") return status.ending ? `ending: ${status.ending.reason}` : status.phase;
  if (status.restart) return `restarting: generation ${status.restart.generation} is being started`;
  if (status.serving < status.count) {
    const wait = status.next_start_in_seconds;
    const next = wait > 0 ? `; the next is started in ${duration(wait)}` : "";
    return `${count(status.count - status.serving, "worker")} missing${next}`;
  }
  return "running";
}

function tone(status) {
  if (status.phase !== "running") return "warn";
  if (status.serving === 0) return "bad";
  return status.restart || status.serving < status.count ? "warn" : "good";
}
