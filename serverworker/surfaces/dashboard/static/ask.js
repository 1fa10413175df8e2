// Requests to the monitor.

let csrf = "";

export function setCsrf(token) {
  csrf = token ?? "";
}

// Answers {status, body}; throws where nobody answers.
export async function ask(path) {
  return answerOf(await fetch(path, { credentials: "same-origin", cache: "no-store" }));
}

export async function logIn(key) {
  return answerOf(await fetch("/login", { method: "POST", body: new URLSearchParams({ key }) }));
}

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
