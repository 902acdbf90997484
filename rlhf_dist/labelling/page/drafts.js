// What was entered and not yet saved, kept in this browser: a reload, a crash or a server that is away lose nothing.

const PREFIX = "rlhf-draft-";
const OLDEST_MS = 30 * 24 * 3600 * 1000;

export function keep(id, draft) {
  attempt(() => localStorage.setItem(PREFIX + id, JSON.stringify({ at: Date.now(), draft })));
}

export function kept(id) {
  return attempt(() => JSON.parse(localStorage.getItem(PREFIX + id))?.draft) ?? null;
}

export function forget(id) {
  attempt(() => localStorage.removeItem(PREFIX + id));
}

/** Removes drafts of long ago, whose tasks others have judged. */
export function forgetOld() {
  attempt(() => {
    for (const key of Object.keys(localStorage).filter((name) => name.startsWith(PREFIX))) {
      const at = attempt(() => JSON.parse(localStorage.getItem(key)).at) ?? 0;
      if (Date.now() - at > OLDEST_MS) localStorage.removeItem(key);
    }
  });
}

/** A choice that holds over a reload, such as that of plain text. */
export const setting = {
  get: (name) => attempt(() => localStorage.getItem(`rlhf-${name}`)),
  set: (name, value) => attempt(() => localStorage.setItem(`rlhf-${name}`, value)),
};

function attempt(action) {
  try {
    return action();
  } catch {
    return null; // a browser that keeps nothing: the page works without
  }
}
