// Hears what the library publishes in this process, but not what looking at records publishes.

import { subscribe, unsubscribe } from "node:diagnostics_channel";
import type { SemelEvent } from "semel";
import { LOOKED_AT } from "../records/look-up.ts";

/** @returns the end of it */
export function hear(listener: (event: SemelEvent) => void): () => void {
  const onMessage = (message: unknown) => {
    const event = message as SemelEvent;
    if (!("store" in event) || event.store !== LOOKED_AT) listener(event);
  };
  subscribe("semel:event", onMessage);
  return () => unsubscribe("semel:event", onMessage);
}
