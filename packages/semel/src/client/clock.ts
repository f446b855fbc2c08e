// Time as the client sees it. Its timers keep a process alive, unlike the engine's: a retry that
// somebody awaits is work, and a script must not end in the middle of it.

import type { Clock } from "../clock.ts";

/** `setTimeout` fires at once for longer delays than this. */
const TIMER_MS_MAX = 2 ** 31 - 1;

export const clientClock: Clock = {
  now: () => performance.now(),
  schedule(delayMs, callback) {
    const timer = setTimeout(callback, Math.min(delayMs, TIMER_MS_MAX));
    return () => clearTimeout(timer);
  },
};
