// Queues that are wrong on purpose: the honest memory store's, with one of its methods spoiled.

import type { StoreQueue } from "../../src/store.ts";
import { memoryStore } from "../../src/stores/memory.ts";
import type { StoreHarness } from "../../src/testing/index.ts";
import type { Saboteur } from "./saboteur.ts";

type QueueSabotage = (honest: StoreQueue) => Partial<StoreQueue>;

export function openMemoryQueue(spoil: QueueSabotage = () => ({})): StoreHarness {
  let now = Date.now();
  const honest = memoryStore({ clock: { now: () => now } });
  const queue = honest.queue!;
  const methods: StoreQueue = {
    add: (...given) => queue.add(...given),
    claim: (claim) => queue.claim(claim),
    renew: (...given) => queue.renew(...given),
    finish: (endings) => queue.finish(endings),
    read: (id) => queue.read(id),
    list: (query) => queue.list(query),
    revive: (id) => queue.revive(id),
    remove: (id) => queue.remove(id),
    stats: () => queue.stats(),
    sweep: (limit) => queue.sweep(limit),
  };
  const spoiled = { ...methods, ...spoil(queue) };
  const store = new Proxy(honest, {
    get: (target, name) => {
      if (name === "queue") return spoiled;
      const member: unknown = Reflect.get(target, name, target);
      return typeof member === "function" ? member.bind(target) : member;
    },
  });
  const elapse = async (ms: number) => {
    now += ms;
  };
  return { store, elapse, another: async () => store };
}

function saboteur(name: string, spoil: QueueSabotage): Saboteur {
  return { name, open: () => openMemoryQueue(spoil) };
}

export const queueSaboteurs: readonly Saboteur[] = [
  saboteur("an add does not test the attempt", (honest) => ({
    add: (items, { dueInMs }) => honest.add(items, { dueInMs }),
  })),
  saboteur("an add keeps some of what it refuses", (honest) => ({
    add: async (items, options) => {
      for (const item of items) await honest.add([item], options);
      return { kind: "settled" };
    },
  })),
  saboteur("a claim ignores the order of places", (honest) => ({
    add: (items, options) =>
      honest.add(
        items.map((item) => ({ ...item, place: 0 })),
        options,
      ),
  })),
  saboteur("a claim does not put off when its items are due", (honest) => ({
    claim: (claim) => honest.claim({ ...claim, leaseMs: 1 }),
  })),
  saboteur("a claim ignores its limit", (honest) => ({
    claim: (claim) => honest.claim({ ...claim, limit: Math.min(1_000, claim.limit * 2) }),
  })),
  saboteur("a finish writes nothing for the second of two", (honest) => ({
    finish: async (endings) => {
      await honest.finish(endings.slice(0, 1));
      return endings.map(() => ({ kind: "settled" }));
    },
  })),
  saboteur("what is done may be added again at once", (honest) => ({
    finish: (endings) =>
      honest.finish(endings.map((one) => (one.kind === "done" ? { ...one, retentionMs: 0 } : one))),
  })),
  saboteur("a retry is due at once", (honest) => ({
    finish: (endings) =>
      honest.finish(endings.map((one) => (one.kind === "retry" ? { ...one, dueInMs: 0 } : one))),
  })),
  saboteur("what is handed on counts as tried", (honest) => ({
    finish: (endings) =>
      honest.finish(
        endings.map((one) =>
          one.kind === "retry" && one.error === null ? { ...one, error: "" } : one,
        ),
      ),
  })),
  saboteur("a sweep removes what waits", (honest) => ({
    sweep: async (limit) => {
      const { items } = await honest.list({ state: "waiting", limit: 1 });
      for (const { id } of items) await honest.remove(id);
      return honest.sweep(limit);
    },
  })),
  saboteur("a listing shows payloads", (honest) => ({
    list: async (query) => {
      const page = await honest.list(query);
      return { ...page, items: page.items.map((item) => ({ ...item, payload: Buffer.of(1) })) };
    },
  })),
];
