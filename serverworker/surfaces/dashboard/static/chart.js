// Two charts, over the last half hour at most, one line for each worker. The scale is logarithmic: 1 ms and 10 s both matter.

import { byId, duration, el, svg } from "./text.js";

const LONGEST_MILLISECONDS = 30 * 60 * 1000;
const SHORTEST_MILLISECONDS = 3 * 60 * 1000;
const STEPS_MILLISECONDS = [1, 2, 5, 10, 15].map((minutes) => minutes * 60 * 1000);
const KEPT = 400;
const HEIGHT = 150;
const LEFT = 52;
const BOTTOM = 20;
const TOP = 8;
const RIGHT = 8;
const COLOURS = 6;

export class Charts {
  constructor() {
    this.samples = [];
    this.marks = [];
    this.waiting = false;
    new ResizeObserver(() => this.drawSoon()).observe(byId("beats"));
  }

  start(series) {
    const newest = this.samples;
    this.samples = [];
    for (const sample of series.samples) this.push(sample);
    // The stream may have been faster.
    if (series.samples.length) newest.forEach((sample) => this.push(sample));
    this.drawSoon();
  }

  add(sample) {
    this.push(sample);
    this.drawSoon();
  }

  push(sample) {
    const at = Date.parse(sample.at);
    const last = this.samples[this.samples.length - 1];
    if (last && at <= last.at) return;
    this.samples.push({ at, workers: sample.workers });
    if (this.samples.length > KEPT) this.samples.shift();
  }

  mark(at, kind) {
    this.marks.push({ at: Date.parse(at), kind });
    if (this.marks.length > 200) this.marks.shift();
  }

  drawSoon() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.draw();
    });
  }

  draw() {
    this.one(byId("beats"), "beats-title", ([beat]) => beat, ([, ok]) => ok);
    this.one(byId("lags"), "lags-title", ([, , lag]) => lag, () => true);
  }

  one(box, title, value, good) {
    const width = Math.max(box.clientWidth, 200);
    const until = this.samples.length ? this.samples[this.samples.length - 1].at : Date.now();
    const known = until - (this.samples[0]?.at ?? until);
    const span = Math.min(Math.max(known, SHORTEST_MILLISECONDS), LONGEST_MILLISECONDS);
    const from = until - span;
    const lines = linesOf(this.samples.filter((sample) => sample.at >= from), value, good);
    const scale = scaleOf(lines, from, span, width);
    const picture = svg("svg", {
      viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT, role: "img", "aria-labelledby": `${title} ${title}-words`,
    }, ...grid(scale, width, from, span), ...this.markers(scale, from, until), ...lines.flatMap((line) => drawn(line, scale)));
    const words = lines.length
      ? lines.filter((line) => line.current).map((line) => legend(line))
      : [el("li", {}, "nothing was measured yet")];
    const list = el("ul", { id: `${title}-words`, class: "legend" }, ...words);
    box.replaceChildren(picture, list);
  }

  markers(scale, from, until) {
    return this.marks.filter((mark) => mark.at >= from && mark.at <= until).map((mark) => {
      const x = scale.x(mark.at).toFixed(1);
      return svg("line", { x1: x, x2: x, y1: TOP, y2: HEIGHT - BOTTOM, class: `mark-${mark.kind}` });
    });
  }
}

function linesOf(samples, value, good) {
  const byWorker = new Map();
  const current = new Set(Object.keys(samples[samples.length - 1]?.workers ?? {}));
  for (const sample of samples) {
    for (const [worker, figures] of Object.entries(sample.workers)) {
      const seconds = value(figures);
      if (seconds == null) continue;
      if (!byWorker.has(worker)) byWorker.set(worker, []);
      byWorker.get(worker).push({ at: sample.at, seconds, good: good(figures) });
    }
  }
  return [...byWorker].map(([worker, points]) => ({
    worker, points, current: current.has(worker), colour: `colour-${Number(worker) % COLOURS}`,
  }));
}

function scaleOf(lines, from, span, width) {
  let low = 0.001;
  let high = 0.1;
  for (const { points } of lines) {
    for (const { seconds } of points) {
      high = Math.max(high, seconds);
      if (seconds > 0) low = Math.min(low, Math.max(seconds, 0.0001));
    }
  }
  const bottom = Math.floor(Math.log10(low));
  const top = Math.ceil(Math.log10(high));
  const inner = HEIGHT - TOP - BOTTOM;
  return {
    bottom,
    top,
    x: (at) => LEFT + ((at - from) / span) * (width - LEFT - RIGHT),
    y: (seconds) => {
      const part = (Math.log10(Math.max(seconds, 10 ** bottom)) - bottom) / (top - bottom);
      return TOP + (1 - part) * inner;
    },
  };
}

function grid(scale, width, from, span) {
  const parts = [];
  for (let power = scale.bottom; power <= scale.top; power += 1) {
    const y = scale.y(10 ** power).toFixed(1);
    parts.push(svg("line", { x1: LEFT, x2: width - RIGHT, y1: y, y2: y, class: "grid" }));
    parts.push(svg("text", { x: LEFT - 6, y: Number(y) + 4, "text-anchor": "end" }, tick(power)));
  }
  const step = STEPS_MILLISECONDS.find((each) => (span / each) * 90 < width) ?? span;
  for (let at = Math.ceil(from / step) * step; at < from + span; at += step) {
    const x = scale.x(at);
    if (x < LEFT + 16 || x > width - RIGHT - 16) continue;
    const label = new Date(at).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hour12: false });
    parts.push(svg("text", { x: x.toFixed(1), y: HEIGHT - 5, "text-anchor": "middle" }, label));
  }
  return parts;
}

function tick(power) {
  return power >= 0 ? `${10 ** power} s` : `${+(10 ** (power + 3)).toPrecision(1)} ms`;
}

function drawn(line, scale) {
  const points = line.points.map(({ at, seconds }) => `${scale.x(at).toFixed(1)},${scale.y(seconds).toFixed(1)}`);
  const className = line.current ? line.colour : "past";
  const bad = line.points.filter((point) => !point.good).map((point) =>
    svg("circle", { cx: scale.x(point.at).toFixed(1), cy: scale.y(point.seconds).toFixed(1), r: 4, class: "bad" }));
  const last = line.points[line.points.length - 1];
  const end = svg("circle", { cx: scale.x(last.at).toFixed(1), cy: scale.y(last.seconds).toFixed(1), r: 2.5, class: `dot ${className}` });
  return [svg("polyline", { points: points.join(" "), class: className }), end, ...bad];
}

function legend(line) {
  const last = line.points[line.points.length - 1].seconds;
  const most = Math.max(...line.points.map((point) => point.seconds));
  const failed = line.points.filter((point) => !point.good).length;
  const words = `worker ${line.worker}: ${duration(last)}, at most ${duration(most)}${failed ? `, failed in ${failed} samples` : ""}`;
  return el("li", {}, svg("svg", { width: 18, height: 10, "aria-hidden": "true" },
    svg("line", { x1: 0, x2: 18, y1: 5, y2: 5, class: line.colour })), words);
}
