// What happens inside, published on `node:diagnostics_channel` for whoever listens; free when nobody
// does.

import { channel } from "node:diagnostics_channel";

/** One message on the channel `semel:event`. Keys appear as record ids only, never in clear. */
export type SemelEvent =
  | { type: "admitted"; id: string; admission: string; attempt?: number; cached: boolean }
  | { type: "settled"; id: string; attempt: number; ending: string; outcome: string }
  /** The store failed behind the caller's back: in a heartbeat, a sweep, an abandoned claim, a tier's front. */
  | { type: "background-failure"; during: "renew" | "sweep" | "abandon" | "front"; error: unknown }
  /** A programming error that was kept away from the user's request. */
  | { type: "misuse"; id: string; message: string };

const events = channel("semel:event");

/** Publishes what `make` returns; `make` is not called when nobody listens. */
export function publish(make: () => SemelEvent): void {
  if (events.hasSubscribers) events.publish(make());
}
