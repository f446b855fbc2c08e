// How long what an administrator decides about an operation is remembered: not for less than its callers
// may come back with its key, or it would run again. Whose route it was, its record does not say.

import type { Resolution, Store, VoidRequest } from "semel";
import type { GatewayOptions } from "./options.ts";

/** The longest that anything is kept for by some options. */
export function longestRetentionMs({ defaults, routes }: GatewayOptions): number {
  return Math.max(...[defaults, ...routes].map(({ retentionMs }) => retentionMs));
}

/**
 * Has a store keep decisions for as long as is said when they are made: the options that say it may have
 * changed since the start.
 */
export function keepingDecisions(store: Store, retentionMs: () => number): Store {
  const overrides = {
    resolve: (resolution: Resolution) =>
      store.resolve({ ...resolution, retentionMs: retentionMs() }),
    void: (request: VoidRequest) => store.void({ ...request, retentionMs: retentionMs() }),
  };
  return new Proxy(store, {
    get: (target, name) => {
      if (name in overrides) return overrides[name as keyof typeof overrides];
      const member: unknown = Reflect.get(target, name, target);
      return typeof member === "function" ? member.bind(target) : member;
    },
  });
}
