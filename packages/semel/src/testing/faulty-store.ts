// A store whose n-th call goes wrong: for tests of what happens when a store fails, answers late,
// loses its acknowledgement, or is asked twice.

import { StoreUnavailable } from "../errors.ts";
import type { Store, StoreQueue } from "../store.ts";

/** The methods of a {@link Store} and of its queue that a fault can hit. */
export type StoreMethod =
  | Exclude<keyof Store, "name" | "subscribe" | "transactions" | "queue">
  | `queue.${keyof StoreQueue}`;

/** One thing that goes wrong. */
export type Fault = {
  /** Which method's calls are counted; all of them when absent. */
  method?: StoreMethod;
  /** Which of these calls is hit, counted from 1; every one when absent. */
  call?: number;
} & (
  | {
      /**
       * - `"fail-before"`: the call never reaches the store.
       * - `"fail-after"`: the store does its work, and its acknowledgement is lost.
       */
      effect: "fail-before" | "fail-after";
      /** What the caller gets. @default a `StoreUnavailable` */
      error?: Error;
    }
  | {
      /**
       * The store is asked twice, one after the other, as by a driver that resends when it missed
       * the reply: the caller gets the second answer.
       */
      effect: "twice";
    }
  | {
      /**
       * - `"delay"`: the call reaches the store when `until` has resolved.
       * - `"delay-reply"`: the store does its work at once, its answer comes when `until` has
       *   resolved.
       *
       * When `until` rejects, so does the call.
       */
      effect: "delay" | "delay-reply";
      until: Promise<unknown>;
    }
);

/** A {@link Store} with faults. */
export interface FaultyStore extends Store {
  /** How many faults have been injected so far. */
  readonly injected: number;
  /** How many calls have been made so far, by method; `total` is their sum. */
  readonly calls: Readonly<Record<StoreMethod | "total", number>>;
}

/**
 * Wraps a store so that chosen calls go wrong. Of several faults that hit one call, the first in
 * the plan counts.
 *
 * @param store the store that does the work
 * @param plan what goes wrong; with none, calls pass through and are counted
 * @example
 * const store = faultyStore(memoryStore(), [{ method: "settle", call: 1, effect: "fail-after" }]);
 */
export function faultyStore(store: Store, plan: readonly Fault[] = []): FaultyStore {
  return new PlannedFaults(store, plan);
}

class PlannedFaults implements FaultyStore {
  readonly name: string;
  readonly calls: Record<StoreMethod | "total", number> = {
    begin: 0,
    settle: 0,
    giveBack: 0,
    append: 0,
    renew: 0,
    read: 0,
    sweep: 0,
    resolve: 0,
    void: 0,
    delete: 0,
    list: 0,
    stats: 0,
    "queue.add": 0,
    "queue.claim": 0,
    "queue.renew": 0,
    "queue.finish": 0,
    "queue.read": 0,
    "queue.list": 0,
    "queue.revive": 0,
    "queue.remove": 0,
    "queue.stats": 0,
    "queue.sweep": 0,
    total: 0,
  };
  readonly giveBack?: NonNullable<Store["giveBack"]>;
  readonly queue?: StoreQueue;
  readonly #store: Store;
  readonly #plan: readonly Fault[];
  #injected = 0;

  constructor(store: Store, plan: readonly Fault[]) {
    this.name = store.name;
    this.#store = store;
    this.#plan = plan;
    if (store.giveBack) {
      this.giveBack = (unused) => this.#call("giveBack", () => store.giveBack!(unused));
    }
    if (store.queue) this.queue = this.#faulty(store.queue);
  }

  get injected(): number {
    return this.#injected;
  }

  begin: Store["begin"] = (claim) => this.#call("begin", () => this.#store.begin(claim));
  settle: Store["settle"] = (ending) => this.#call("settle", () => this.#store.settle(ending));
  append: NonNullable<Store["append"]> = (entry) =>
    this.#call("append", () => this.#store.append!(entry));
  renew: Store["renew"] = (renewal) => this.#call("renew", () => this.#store.renew(renewal));
  read: Store["read"] = (id) => this.#call("read", () => this.#store.read(id));
  sweep: Store["sweep"] = (limit) => this.#call("sweep", () => this.#store.sweep(limit));
  resolve: Store["resolve"] = (resolution) =>
    this.#call("resolve", () => this.#store.resolve(resolution));
  void: Store["void"] = (request) => this.#call("void", () => this.#store.void(request));
  delete: Store["delete"] = (id) => this.#call("delete", () => this.#store.delete(id));
  list: Store["list"] = (query) => this.#call("list", () => this.#store.list(query));
  stats: Store["stats"] = () => this.#call("stats", () => this.#store.stats());

  #faulty(queue: StoreQueue): StoreQueue {
    return {
      add: (...given) => this.#call("queue.add", () => queue.add(...given)),
      claim: (claim) => this.#call("queue.claim", () => queue.claim(claim)),
      renew: (...given) => this.#call("queue.renew", () => queue.renew(...given)),
      finish: (endings) => this.#call("queue.finish", () => queue.finish(endings)),
      read: (id) => this.#call("queue.read", () => queue.read(id)),
      list: (query) => this.#call("queue.list", () => queue.list(query)),
      revive: (id) => this.#call("queue.revive", () => queue.revive(id)),
      remove: (id) => this.#call("queue.remove", () => queue.remove(id)),
      stats: () => this.#call("queue.stats", () => queue.stats()),
      sweep: (limit) => this.#call("queue.sweep", () => queue.sweep(limit)),
    };
  }

  async #call<Answer>(method: StoreMethod, ask: () => Promise<Answer>): Promise<Answer> {
    const fault = this.#faultOf(method, ++this.calls[method], ++this.calls.total);
    if (fault === undefined) return ask();
    this.#injected++;
    switch (fault.effect) {
      case "fail-before":
        throw fault.error ?? lost(method, "the call was lost");
      case "fail-after":
        await ask();
        throw fault.error ?? lost(method, "the acknowledgement was lost");
      case "twice":
        await ask();
        return ask();
      case "delay":
        await fault.until;
        return ask();
      case "delay-reply": {
        const answer = await ask();
        await fault.until;
        return answer;
      }
    }
  }

  #faultOf(method: StoreMethod, callOfMethod: number, callOfAny: number): Fault | undefined {
    return this.#plan.find((fault) => {
      if (fault.method !== undefined && fault.method !== method) return false;
      const call = fault.method === undefined ? callOfAny : callOfMethod;
      return fault.call === undefined || fault.call === call;
    });
  }
}

function lost(method: StoreMethod, what: string): StoreUnavailable {
  return new StoreUnavailable(`A fault was injected into \`${method}\`: ${what}`);
}
