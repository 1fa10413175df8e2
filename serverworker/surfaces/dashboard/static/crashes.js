// Crash reports: why the last one happened at a glance, and each one whole.

import { ask } from "./ask.js";
import { byId, duration, el, say, time } from "./text.js";

const SHOWN = 10;

export class Crashes {
  constructor() {
    this.items = new Map();
    this.clear();
    byId("crashes-more").addEventListener("click", () => {
      this.all = true;
      this.show();
    });
  }

  clear() {
    this.summaries = [];
    this.all = false;
    this.items.clear();
    byId("crashes").replaceChildren();
    byId("last-crash-body").replaceChildren();
    byId("last-crash").classList.remove("crashed");
  }

  async load() {
    let answer;
    try {
      answer = await ask("/api/crashes");
    } catch {
      return; // the stream tells that nobody answers
    }
    if (answer.status !== 200) return;
    this.summaries = answer.body;
    this.show();
  }

  show() {
    const shown = this.all ? this.summaries : this.summaries.slice(0, SHOWN);
    byId("crashes-empty").hidden = shown.length > 0;
    byId("crashes-more").hidden = shown.length === this.summaries.length;
    say(byId("crashes-more"), `Show all ${this.summaries.length}`);
    const ids = new Set(shown.map((each) => each.id));
    for (const [id, item] of this.items) {
      if (ids.has(id)) continue;
      item.remove();
      this.items.delete(id);
    }
    // Those that are there stay where they are, opened or not; new ones come before them.
    const list = byId("crashes");
    shown.forEach((summary, number) => {
      let item = this.items.get(summary.id);
      if (!item) {
        item = this.item(summary);
        this.items.set(summary.id, item);
      }
      if (list.children[number] !== item) list.insertBefore(item, list.children[number] ?? null);
    });
    this.showLast(this.summaries[0]);
  }

  showLast(last) {
    byId("last-crash").classList.toggle("crashed", Boolean(last));
    const body = byId("last-crash-body");
    if (body.dataset.id === (last?.id ?? "none") && body.children.length) return;
    body.dataset.id = last?.id ?? "none";
    if (!last) {
      body.replaceChildren(el("p", {}, "No worker has died unasked."));
      return;
    }
    if (last.error) {
      body.replaceChildren(el("p", { class: "cause" }, last.error));
      return;
    }
    body.replaceChildren(...[
      el("p", { class: "cause" }, last.text),
      last.hung_at ? el("p", {}, "It hung at ", el("code", {}, last.hung_at)) : null,
      el("p", {}, time(last.at), ` · worker ${last.worker}, generation ${last.generation} · then: ${last.next_step}`),
      el("p", {}, el("button", { type: "button", "data-crash": last.id }, "Read the report")),
    ].filter(Boolean));
  }

  item(summary) {
    const id = `report-${summary.id}`;
    const title = summary.error ? `unreadable: ${summary.error}` : summary.text;
    const button = el("button", { type: "button", "aria-expanded": "false", "aria-controls": id },
      el("span", { class: "title" }, title),
      el("span", { class: "meta" }, summary.error ? summary.id : time(summary.at),
        summary.error ? null : ` · worker ${summary.worker}, generation ${summary.generation} · ${summary.cause}`));
    const report = el("div", { id, class: "report", hidden: true });
    button.addEventListener("click", () => this.toggle(summary, button, report));
    return el("li", {}, el("h3", {}, button), report);
  }

  async toggle(summary, button, report) {
    const opens = button.getAttribute("aria-expanded") !== "true";
    button.setAttribute("aria-expanded", `${opens}`);
    report.hidden = !opens;
    if (!opens || report.children.length) return;
    report.replaceChildren(el("p", { role: "status" }, "Reading…"));
    try {
      const { status, body } = await ask(`/api/crashes/${encodeURIComponent(summary.id)}`);
      report.replaceChildren(...(status === 200 ? reportParts(body) : [el("p", {}, body?.text ?? "It cannot be read.")]));
    } catch {
      report.replaceChildren();
      button.setAttribute("aria-expanded", "false");
      report.hidden = true;
    }
  }

  // Open a report and go there.
  open(id) {
    const button = this.items.get(id)?.querySelector("button");
    if (!button) return;
    if (button.getAttribute("aria-expanded") !== "true") button.click();
    button.focus();
    button.scrollIntoView({ block: "start" });
  }
}

function reportParts(report) {
  const facts = [
    ["Why", report.cause.text],
    report.hung_at ? ["Hung at", report.hung_at] : null,
    ["What the session did", report.next_step],
    ["When", `${report.at}, after ${duration(report.uptime_seconds)}, while ${report.life}`],
    ["Who", `worker ${report.worker}${report.pid == null ? "" : ` (pid ${report.pid})`} of generation ${report.generation}`],
  ].filter(Boolean);
  const of = `worker ${report.worker}, ${report.at}`;
  const requests = report.requests.map((each) => `${each.method} ${each.path}, for ${duration(each.age_seconds)}`);
  const beats = report.beats.map((each) => `${each.at}  ${each.text}, after ${duration(each.seconds)}`);
  return [
    el("dl", { class: "facts" }, ...facts.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value)))),
    part("Requests that it was at", requests.join("\n"), of),
    part("Traceback", report.cause.error?.traceback ?? "", of),
    part("Last output", report.output.map((line) => line.text).join("\n"), of),
    folded("Stacks of all threads", report.stacks, of),
    folded("Last heartbeats", beats.join("\n"), of),
  ].filter(Boolean);
}

function part(title, text, of) {
  return text.trim() ? el("div", {}, el("h4", {}, title), verbatim(title, text, of)) : null;
}

function folded(title, text, of) {
  return text.trim() ? el("details", {}, el("summary", {}, title), verbatim(title, text, of)) : null;
}

// It may scroll, so the keyboard must reach it, and then it needs a name that no other has.
function verbatim(title, text, of) {
  return el("pre", { tabindex: "0", role: "region", "aria-label": `${title}, ${of}` }, text);
}
