// The page: logging in, the stream, and who is told what comes by it.

import { startActions, showCommands } from "./actions.js";
import { ask, logIn, post, setCsrf } from "./ask.js";
import { Charts } from "./chart.js";
import { Crashes } from "./crashes.js";
import { Live } from "./live.js";
import { Logs } from "./logs.js";
import { byId, clock, say } from "./text.js";
import { Timeline, KINDS } from "./timeline.js";
import { Workers } from "./workers.js";

const RETRY_MILLISECONDS = 1500;
const MISSED_MILLISECONDS = 30000;
const SETTLE_MILLISECONDS = 400; // several reports may be written at once

const workers = new Workers();
const charts = new Charts();
const timeline = new Timeline(charts);
const crashes = new Crashes();
const logs = new Logs();

let session = null;
let sequence = 0;
let disconnectedAt = null;
let refreshing = 0;
let retrying = 0;
let forgetting = 0;

const live = new Live({
  on: {
    hello: (message) => { if (message.session !== session) enter(); },
    told,
    missed,
    status: (message) => workers.take(message),
    sample: (message) => charts.add(message),
  },
  connected,
  lost: () => {
    clearTimeout(retrying);
    retrying = setTimeout(enter, RETRY_MILLISECONDS);
  },
});

function missed() {
  const text = "Some events or lines came faster than they could be shown, and are left out here.";
  say(byId("notice"), text);
  clearTimeout(forgetting);
  forgetting = setTimeout(() => { if (byId("notice").textContent === text) say(byId("notice"), ""); }, MISSED_MILLISECONDS);
}

function told(events) {
  for (const event of events) {
    if (event.sequence <= sequence) continue; // known from before the connection broke
    sequence = event.sequence;
    if (event.event === "OutputLine") {
      logs.add(event);
      continue;
    }
    timeline.add(event);
    if (event.event === "CrashReportWritten") {
      clearTimeout(refreshing);
      refreshing = setTimeout(() => crashes.load(), SETTLE_MILLISECONDS);
    }
  }
  logs.show();
  timeline.show();
}

function connected(is) {
  document.body.classList.toggle("stale", !is);
  if (is) {
    disconnectedAt = null;
    say(byId("connection"), "Live");
  } else {
    disconnectedAt ??= new Date().toISOString();
    say(byId("connection"), `Disconnected since ${clock(disconnectedAt)}; trying again`);
  }
}

// Ask who we are; then show the session, or the login.
async function enter() {
  clearTimeout(retrying);
  live.close();
  let answer;
  try {
    answer = await ask("/api/session");
    if (answer.status !== 200 && answer.status !== 401) throw new Error("no answer");
  } catch {
    connected(false);
    if (byId("desk").hidden && byId("login").hidden) show("login");
    retrying = setTimeout(enter, RETRY_MILLISECONDS);
    return;
  }
  if (answer.status === 401) {
    const known = session !== null;
    session = null;
    show("login", known ? "You are logged out: the session was started anew and has another key, or you were away for too long." : "");
    return;
  }
  setCsrf(answer.body.csrf);
  if (answer.body.session !== session) begin(answer.body);
  show("desk");
  live.open();
}

// A session that is new to this page.
function begin(about) {
  if (session !== null) say(byId("notice"), `The session was started anew at ${clock(new Date().toISOString())}: this is another one.`);
  session = about.session;
  sequence = 0;
  workers.clear();
  logs.clear();
  timeline.clear();
  showCommands(about.commands);
  crashes.load();
  Promise.all([
    ask("/api/series").then(({ status, body }) => { if (status === 200) charts.start(body); }),
    ask(`/api/events?last=100&kinds=${KINDS.join(",")}`).then(({ status, body }) => {
      if (status === 200) timeline.addOld(body);
    }),
  ]).catch(() => {}); // the stream tells of it when the monitor is gone
}

function show(part, reason = "") {
  const login = byId("login");
  const desk = byId("desk");
  const changes = (part === "login" ? login : desk).hidden;
  login.hidden = part !== "login";
  desk.hidden = part !== "desk";
  document.title = part === "login" ? "Log in – serverworker" : "serverworker";
  if (part === "login") {
    byId("login-reason").hidden = !reason;
    say(byId("login-reason"), reason);
  }
  if (!changes) return;
  if (part === "login") {
    if (byId("confirm").open) byId("confirm").close("no");
    byId("key").focus();
  } else {
    byId("title").focus({ preventScroll: true });
  }
}

byId("login-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const key = byId("key");
  say(byId("login-error"), "");
  try {
    const { status, body } = await logIn(key.value);
    if (status === 200) {
      key.value = "";
      say(byId("notice"), "");
      await enter();
      return;
    }
    say(byId("login-error"), body?.text ?? `The monitor answered ${status}.`);
  } catch {
    say(byId("login-error"), "The monitor does not answer.");
  }
  key.focus();
  key.select();
});

byId("log-out").addEventListener("click", async () => {
  live.close();
  try {
    await post("/logout");
  } catch {
    // Nobody is there: the login has ended with the session.
  }
  session = null;
  clearAll();
  show("login", "You are logged out.");
});

// What was shown is nobody's business after a logout.
function clearAll() {
  workers.clear();
  logs.clear();
  timeline.clear();
  crashes.clear();
  charts.start({ samples: [] });
  say(byId("notice"), "");
  say(byId("outcome"), "");
  byId("output").hidden = true;
  say(byId("output"), "");
}

startActions({ lostLogin: enter });
byId("last-crash").addEventListener("click", (event) => {
  const button = event.target.closest("button[data-crash]");
  if (button) crashes.open(button.dataset.crash);
});
setInterval(() => workers.tick(), 1000);
setInterval(() => charts.draw(), 15000);
enter();
