// The time a labeller spends on a task: it stops while nothing is done, and while the page is hidden.

const IDLE_MS = 60000;
const SIGNS = ["pointermove", "pointerdown", "keydown", "scroll", "wheel", "touchmove", "input"];

export class Clock {
  constructor() {
    this.spent = 0;
    this.last = null;
    for (const sign of SIGNS) addEventListener(sign, () => this.touch(), { passive: true, capture: true });
    document.addEventListener("visibilitychange", () => (document.hidden ? this.stop() : this.touch()));
  }

  /** Begins a task on which `seconds` were spent before. */
  start(seconds = 0) {
    this.spent = seconds * 1000;
    this.last = performance.now();
  }

  touch() {
    const now = performance.now();
    if (this.last !== null) this.spent += Math.min(now - this.last, IDLE_MS);
    this.last = now;
  }

  stop() {
    if (this.last !== null) this.touch();
    this.last = null;
  }

  /** Whether something was done within the last minute. */
  get awake() {
    return this.last !== null && performance.now() - this.last < IDLE_MS && !document.hidden;
  }

  get seconds() {
    const since = this.last === null ? 0 : Math.min(performance.now() - this.last, IDLE_MS);
    return Math.round((this.spent + since) / 100) / 10;
  }
}
