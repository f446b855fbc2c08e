// A store some of whose methods are a test's own.

import type { Store } from "../../src/store.ts";

export function overriding<Kind extends Store>(store: Kind, own: Partial<Store>): Kind {
  return new Proxy(store, {
    get(target, name) {
      const value = Reflect.get(own, name) ?? Reflect.get(target, name);
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
}
