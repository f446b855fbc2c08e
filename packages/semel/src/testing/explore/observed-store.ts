// A store whose every call passes through an observer, the queue's calls by names such as `queue.add`.

import type { Store } from "../../store.ts";

/** Is handed each call, and performs it. */
export type Observe = <Answer>(what: string, perform: () => Promise<Answer>) => Promise<Answer>;

export function observedStore(store: Store, observe: Observe): Store {
  return observed(store, "", observe);
}

function observed<Target extends object>(whole: Target, prefix: string, observe: Observe): Target {
  return new Proxy(whole, {
    get(target, name) {
      const member = Reflect.get(target, name) as unknown;
      if (name === "queue" && member) return observed(member, "queue.", observe);
      // A notification may be lost at any time: without any, waiting polls.
      if (name === "subscribe") return undefined;
      if (typeof member !== "function") return member;
      return (...given: unknown[]) =>
        observe(
          `${prefix}${String(name)}`,
          () => Reflect.apply(member, target, given) as Promise<unknown>,
        );
    },
  });
}
