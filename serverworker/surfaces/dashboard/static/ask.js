// Requests to the monitor.

const ANSWER_MILLISECONDS = 15000;

let csrf = "";

export function setCsrf(token) {
  csrf = token ?? "";
}

// Answers {status, body}; throws where nobody answers.
export async function ask(path) {
  return answerOf(await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(ANSWER_MILLISECONDS) }));
}

export async function logIn(key) {
  const signal = AbortSignal.timeout(ANSWER_MILLISECONDS);
  return answerOf(await fetch("/login", { method: "POST", body: new URLSearchParams({ key }), signal }));
}

// Without a deadline: a restart takes as long as the application takes to start.
export async function post(path, value = {}) {
  return answerOf(await fetch(path, {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-CSRF-Token": csrf },
    body: JSON.stringify(value),
  }));
}

async function answerOf(response) {
  let body = null;
  try {
    body = await response.json();
  } catch {
    // A proxy's own page, or an answer that was cut off.
  }
  return { status: response.status, body };
}
