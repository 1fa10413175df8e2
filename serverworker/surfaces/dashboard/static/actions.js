// What an operator can have done, with its outcome said where a screen reader hears it.

import { post } from "./ask.js";
import { byId, el, say } from "./text.js";

let busy = false;
let lostLogin = () => {};

export function startActions(callbacks) {
  lostLogin = callbacks.lostLogin;
  for (const button of document.querySelectorAll("button[data-command]")) {
    button.addEventListener("click", () => press(button));
  }
  for (const form of document.querySelectorAll("form[data-command]")) {
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const values = [...new FormData(form).values()].map((value) => value.trim());
      run({ words: [...form.dataset.command.split(" "), ...values] });
    });
  }
  byId("command-form").addEventListener("submit", (event) => {
    event.preventDefault();
    run({ line: byId("command").value });
  });
}

export function showCommands(commands) {
  byId("commands").replaceChildren(...commands.map(({ usage, help }) =>
    el("div", {}, el("dt", {}, el("code", {}, usage)), el("dd", {}, help))));
  // Those of the application that take nothing are a button; the others are typed.
  const own = commands.filter((command) => command.own && !command.usage.includes(" "));
  byId("own-commands").hidden = own.length === 0;
  byId("own-commands").replaceChildren(...own.map(({ usage, help }) => {
    const button = el("button", { type: "button", title: help }, usage);
    button.addEventListener("click", () => run({ words: [usage] }));
    return button;
  }));
}

async function press(button) {
  if (button.dataset.confirm && !(await confirmed(button))) return;
  await run({ words: button.dataset.command.split(" ") });
}

// Focus goes back to the button by itself: that is what a modal dialog does.
function confirmed(button) {
  const dialog = byId("confirm");
  say(byId("confirm-text"), button.dataset.confirm);
  say(byId("confirm-yes"), button.textContent.replace("…", ""));
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

async function run(asked) {
  const name = asked.line ?? asked.words.join(" ");
  if (busy) {
    outcome("warn", "One thing at a time: wait for the end of the last one.");
    return;
  }
  busy = true;
  outcome("", `${name}: under way…`);
  try {
    const { status, body } = await post("/api/run", asked);
    if (status === 401) lostLogin();
    const text = body?.text ?? `the monitor answered ${status}`;
    const long = text.includes("\n");
    byId("output").hidden = !long;
    say(byId("output"), long ? text : "");
    const short = long ? "the answer stands below" : text;
    outcome(body?.ok ? "good" : "bad", body?.ok ? `${name}: ${short}` : `${name} failed: ${short}`);
  } catch {
    outcome("bad", `${name}: the monitor does not answer any more`);
  } finally {
    busy = false;
  }
}

function outcome(tone, text) {
  byId("outcome").className = tone;
  say(byId("outcome"), text);
}
