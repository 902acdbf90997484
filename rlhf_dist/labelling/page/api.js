// Requests to the server. What matters is tried until it works: nothing that was entered is given up.

const TIMEOUT_MS = 15000;
const WAITS_S = [1, 2, 4, 8, 15];

/** The server answered, and said no. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function once(path, options) {
  const response = await fetch(path, { ...options, signal: AbortSignal.timeout(TIMEOUT_MS) });
  const body = await response.json();
  if (!response.ok) throw new Refused(response.status, body.error ?? `The server answered ${response.status}.`);
  return body;
}

/**
 * The answer to a request, sent again and again while the server is away or cannot write.
 * `waiting(message, seconds)` is told of each wait; the function it returns is called with a way to go on at once.
 */
export async function request(path, { body, waiting } = {}) {
  const options =
    body === undefined
      ? {}
      : { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  for (let attempt = 0; ; attempt += 1) {
    try {
      return await once(path, options);
    } catch (error) {
      const hopeless = error instanceof Refused && error.status < 500;
      if (hopeless || !waiting) throw error;
      const seconds = WAITS_S[Math.min(attempt, WAITS_S.length - 1)];
      const why = error instanceof Refused ? error.message : "The server cannot be reached.";
      await pause(why, seconds, waiting);
    }
  }
}

function pause(why, seconds, waiting) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, seconds * 1000);
    waiting(why, seconds, () => {
      clearTimeout(timer);
      resolve();
    });
  });
}

/** Takes the secret out of the address bar, and has the server make a cookie of it. False where there was none. */
export async function join() {
  const token = location.hash.slice(1);
  if (!token) return false;
  history.replaceState(null, "", location.pathname);
  await request("/api/join", { body: { token } });
  return true;
}
