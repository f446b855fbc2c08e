// What the conformance suite of stores asks of a store under test, and what a case of it is.

import type { RecordId, Store } from "../store.ts";

/** A store under test and the powers over it that the contract does not give. */
export interface StoreHarness {
  /** An empty store: a case owns everything in it. */
  store: Store;
  /**
   * Lets time pass for the store's records and the items of its queue: an injected clock moved on, or
   * every stored time (creation, last change, lease, expiry; when an item is due) moved back. Real time
   * may pass besides.
   */
  elapse(ms: number): Promise<void>;
  /** The same records through another client (another connection or process). */
  another?(): Promise<Store>;
  /** Damages a stored record: bytes nobody can decode, or a format of a newer version. */
  damage?(id: RecordId, how: "garbage" | "newer"): Promise<void>;
  close?(): Promise<void>;
}

/** The optional members of a {@link StoreHarness} that a case cannot do without. */
export type StoreCapability = "another" | "damage";

/** One behaviour that every store has. */
export interface StoreCase {
  /** A sentence, with the requirement that it comes from. */
  readonly name: string;
  /** What the harness has to offer; a runner skips the case, with this reason, where it does not. */
  readonly needs: readonly StoreCapability[];
  /** Rejects with an `AssertionError` when the store behaves otherwise. */
  run(harness: StoreHarness): Promise<void>;
}

export function storeCase(
  name: string,
  run: (harness: StoreHarness) => Promise<void>,
  needs: readonly StoreCapability[] = [],
): StoreCase {
  return { name, needs, run };
}

/**
 * As `Promise.all`, but a failure waits for the other calls to end, so that none is still under way
 * when the harness closes.
 */
export async function together<Calls extends readonly unknown[] | []>(
  calls: Calls,
): Promise<{ -readonly [Call in keyof Calls]: Awaited<Calls[Call]> }> {
  await Promise.allSettled(calls);
  return Promise.all(calls);
}

/** The store under test and, where the harness has one, another client of the same records. */
export async function clientsOf(harness: StoreHarness): Promise<readonly Store[]> {
  return harness.another ? [harness.store, await harness.another()] : [harness.store];
}
