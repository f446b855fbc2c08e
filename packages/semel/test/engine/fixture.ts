// What the tests of the engine share: an instance over a real memory store, whose calls can be
// counted and made to go wrong, under a clock that stands still.

import { channel } from "node:diagnostics_channel";
import {
  Idempotency,
  type IdempotencyOptions,
  type RunRequest,
} from "../../src/engine/idempotency.ts";
import type { SemelEvent } from "../../src/events.ts";
import { memoryStore } from "../../src/stores/memory.ts";
import { type Fault, type FaultyStore, faultyStore } from "../../src/testing/faulty-store.ts";
import { type ManualClock, manualClock } from "../../src/testing/manual-clock.ts";

export interface Fixture {
  clock: ManualClock;
  store: FaultyStore;
  /** Faults to come: may be added to and emptied while a test runs. */
  plan: Fault[];
  idempotency: Idempotency;
  /** Another process: an instance of its own over the same records, without faults. */
  another(options?: Partial<IdempotencyOptions>): Idempotency;
}

export function fixture(options: Partial<IdempotencyOptions> = {}): Fixture {
  const clock = manualClock();
  const records = memoryStore({ clock });
  const plan: Fault[] = [];
  const store = faultyStore(records, plan);
  const common = { clock, sweep: false } as const;
  return {
    clock,
    store,
    plan,
    idempotency: new Idempotency({ store, ...common, ...options }),
    another: (theirs) => new Idempotency({ store: records, ...common, ...options, ...theirs }),
  };
}

/** As a crash: what runs in this process goes on unheard, and its leases lapse. */
export async function crash({ idempotency, clock }: Pick<Fixture, "idempotency" | "clock">) {
  const closing = idempotency.close({ deadline: 0 });
  await clock.advance(0);
  return closing;
}

/** Begins an operation whose process dies before it ends. */
export async function crashed(
  { clock, another }: Fixture,
  request: RunRequest,
  options: Partial<IdempotencyOptions> = {},
): Promise<void> {
  const idempotency = another(options);
  void idempotency.run(request, () => new Promise(() => {}));
  await turns();
  await crash({ idempotency, clock });
}

export interface Deferred<Value> {
  promise: Promise<Value>;
  resolve(value: Value): void;
  reject(error: unknown): void;
}

export function deferred<Value = void>(): Deferred<Value> {
  let resolve: (value: Value) => void = () => {};
  let reject: (error: unknown) => void = () => {};
  const promise = new Promise<Value>((onValue, onError) => {
    resolve = onValue;
    reject = onError;
  });
  return { promise, resolve, reject };
}

/** Whatever could go on has gone on. */
export async function turns(): Promise<void> {
  for (let n = 0; n < 5; n++) await new Promise((resolve) => setImmediate(resolve));
}

/** The error that a promise is rejected with. */
export async function failure(promise: Promise<unknown>): Promise<unknown> {
  return promise.then(
    (value) => {
      throw new Error(`expected a rejection, got ${JSON.stringify(value)}`);
    },
    (error) => error,
  );
}

/** Whether a promise has settled by now. */
export async function isSettled(promise: Promise<unknown>): Promise<boolean> {
  let settled = false;
  const note = () => {
    settled = true;
  };
  promise.then(note, note);
  await turns();
  return settled;
}

/** What is published while `run` runs. */
export async function eventsDuring(run: () => Promise<unknown>): Promise<SemelEvent[]> {
  const events: SemelEvent[] = [];
  const events$ = channel("semel:event");
  const onEvent = (event: unknown) => void events.push(event as SemelEvent);
  events$.subscribe(onEvent);
  try {
    await run();
  } finally {
    events$.unsubscribe(onEvent);
  }
  return events;
}
