// Every fault at every message of an exchange with a store's server, one connection and one key each;
// after each of them, what Semel promises is looked at from another process's point of view.

import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Idempotency } from "../../src/engine/idempotency.ts";
import { isSemelError } from "../../src/errors.ts";
import type { Store, StoreTransactions } from "../../src/store.ts";
import { acquire, claimOf, completion, renewal } from "../../src/testing/claims.ts";
import {
  type FaultProxy,
  faultProxy,
  PROXY_FAULTS,
  type ProxyFault,
  type ProxyFaultKind,
  type ProxyMessage,
  type WireProtocol,
} from "../../src/testing/fault-proxy.ts";

/** A client of its own, and a store on it. */
export interface Opened {
  readonly store: Store & { readonly transactions?: StoreTransactions };
  close(): Promise<void>;
}

/** What is broken: a server, through one driver. */
export interface Subject {
  readonly name: string;
  readonly protocol: WireProtocol;
  readonly target: { host: string; port: number };
  /** A client with two connections, or the one that it has, which waits so long for an answer. */
  open(port: number, timeoutMs: number): Promise<Opened>;
  readonly phases: readonly Phase[];
  /** Which kinds its client can be expected to notice. */
  readonly kinds: readonly ProxyFaultKind[];
  readonly orders?: Orders;
}

/** The table that handlers write to in their transactions. */
export interface Orders {
  insert(transaction: unknown, sku: string): Promise<void>;
  /** Uses another connection of the same pool. */
  ping(opened: Opened): Promise<void>;
  count(sku: string): Promise<number>;
}

/** Faults that the client is told of, or that only slow it down. */
export const LOUD: readonly ProxyFaultKind[] = [
  "delay",
  "slices",
  "reset",
  "cut",
  "truncate",
  "lose-reply",
];
const SILENT: readonly ProxyFaultKind[] = ["black-hole", "close-client", "close-server"];
/** Faults after which every answer is as if nothing had happened. */
const HARMLESS: readonly ProxyFaultKind[] = ["delay", "slices"];

export const PHASES = ["connecting", "claim", "completion", "renewal", "transaction"] as const;
export type Phase = (typeof PHASES)[number];

interface Case {
  readonly phase: Phase;
  readonly fault: ProxyFault & { at: number | "connection" };
  readonly title: string;
}

interface Tally {
  injected: number;
  held: number;
  /** Of the harmful ones, after how many the next operations were served without a single error. */
  servedAtOnce: number;
  harmful: number;
  /** How calls under a fault ended, and what their duplicates got. */
  readonly answers: Map<string, number>;
  readonly failures: string[];
}

/** Of the many messages by which a client and a server get to know each other. */
const CONNECTING: readonly ProxyFaultKind[] = ["reset", "black-hole"];
/** Far more than any time-out that is set here: what takes longer hangs. */
const HANGS_MS = 200_000;
const AT_ONCE = 16;
const LEASE_OF_RENEWALS = "1500ms";
const OPTIONS = { sweep: false, cache: false } as const;
/**
 * Who is not told has to find out by waiting; whoever is told need not wait, and must not give up
 * because the machine is busy.
 */
const TIMEOUT_MS = { silent: 1_000, told: 45_000 };
const COMPLETION_RETRY_MS = { silent: 3_000, told: 60_000 };
/** A busy machine may let a time-out pass before the message comes that is to be hit. */
const TRIES_MAX = 10;

let keys = 0;
const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
const newKey = () => `${process.pid}-${Date.now()}-${++keys}`;

class Enumeration {
  readonly tally: Tally = {
    injected: 0,
    held: 0,
    servedAtOnce: 0,
    harmful: 0,
    answers: new Map(),
    failures: [],
  };
  readonly #subject: Subject;
  readonly #closing: Promise<void>[] = [];
  #witness: Opened | undefined;

  constructor(subject: Subject) {
    this.#subject = subject;
  }

  /** Another process, which nothing happens to. */
  async open(): Promise<void> {
    this.#witness = await this.#subject.open(this.#subject.target.port, TIMEOUT_MS.told);
    // What a server is told once, such as a script, is no part of the exchanges that follow.
    const { store } = this.#witness;
    const token = await acquire(store, claimOf());
    await store.renew(renewal(token));
    await store.settle(completion(token));
  }

  async close(): Promise<void> {
    await Promise.all(this.#closing);
    await this.#witness?.close();
  }

  /** Injects every kind of fault at every message of a phase. @returns what went wrong */
  async run(phase: Phase): Promise<string[]> {
    const cases = this.#cases(phase, await this.#transcript(phase));
    const failed = this.tally.failures.length;
    const work = cases.values();
    await Promise.all(
      Array.from({ length: AT_ONCE }, async () => {
        for (const one of work) await this.#inject(one);
      }),
    );
    return this.tally.failures.slice(failed);
  }

  /** The messages of a phase that nothing happens to. */
  async #transcript(phase: Phase): Promise<ProxyMessage[]> {
    const proxy = await this.#proxy();
    const { store, close } = await this.#open(proxy, phase, TIMEOUT_MS.told);
    const claim = claimOf();
    try {
      switch (phase) {
        case "connecting":
        case "claim":
          return await proxy.record(() => store.begin(claim));
        case "completion": {
          const token = await acquire(store, claim);
          return await proxy.record(() => store.settle(completion(token)));
        }
        case "renewal": {
          const token = await acquire(store, claim);
          return await proxy.record(() => store.renew(renewal(token)));
        }
        case "transaction": {
          const idempotency = new Idempotency({ store, ...OPTIONS });
          const messages = await proxy.record(() =>
            this.#transaction(idempotency, { key: newKey(), effects: 0, ownError: undefined }),
          );
          // Before it stands a look at the record, which is read as by others.
          const isStart = ({ bytes }: ProxyMessage) =>
            /\b(begin|set transaction)\b/i.test(bytes.toString("latin1"));
          return messages.slice(messages.findIndex(isStart));
        }
      }
    } finally {
      await close();
      await proxy.close();
    }
  }

  #cases(phase: Phase, messages: readonly ProxyMessage[]): Case[] {
    const cases: Case[] = [];
    const add = (kind: ProxyFaultKind, at: number | "connection", what: string) => {
      const title = `${phase}, message ${at} (${what}): ${kind}`;
      cases.push({ phase, fault: { kind, at }, title });
    };
    const ofPhase = phase === "connecting" ? CONNECTING : PROXY_FAULTS;
    const kinds = this.#subject.kinds.filter((kind) => ofPhase.includes(kind));
    for (const [n, { index, from, bytes }] of messages.entries()) {
      const what = `${from}: ${bytes.toString("latin1", 0, 24).replaceAll(/[^ -~]/g, ".")}`;
      const isLastOfTurn = from === "client" && messages[n + 1]?.from === "server";
      for (const kind of kinds) if (kind !== "lose-reply" || isLastOfTurn) add(kind, index, what);
    }
    if (phase === "connecting") for (const kind of kinds) add(kind, "connection", "accepted");
    return cases;
  }

  async #inject(one: Case): Promise<void> {
    for (let tries = 1; ; tries++) {
      const proxy = await this.#proxy();
      const opened = await this.#open(proxy, one.phase, TIMEOUT_MS[toldOrSilent(one)]);
      let problem: unknown;
      try {
        await inTime(this.#check(one, proxy, opened));
      } catch (error) {
        problem = error;
      }
      // First the proxy: a client may wait for its connections before it closes.
      this.#closing.push(proxy.close().then(() => opened.close()));
      const hits = proxy.injected[one.fault.kind];
      if (hits === 0 && tries < TRIES_MAX) continue;
      this.tally.injected += hits;
      if (hits === 1 && problem === undefined) this.tally.held++;
      else this.tally.failures.push(`${one.title}: ${problem ?? `injected ${hits} times`}`);
      return;
    }
  }

  /** One operation under a fault, the next ones, and its duplicate in another process. */
  async #check(one: Case, proxy: FaultProxy, opened: Opened): Promise<void> {
    const { phase, fault } = one;
    const key = newKey();
    const idempotency = new Idempotency({
      store: opened.store,
      ...OPTIONS,
      storeTimeout: 2 * TIMEOUT_MS[toldOrSilent(one)],
      completionRetry: COMPLETION_RETRY_MS[toldOrSilent(one)],
    });
    const witness = new Idempotency({ store: this.#witness!.store, ...OPTIONS });
    const seen: Seen = { key, effects: 0, ownError: undefined };
    const first = await outcomeOf(this.#underFault(one, proxy, idempotency, seen));
    if (proxy.injected[fault.kind] === 0) return;
    assertFirst(one, seen, first);
    if (!HARMLESS.includes(fault.kind)) await this.#servesOthers(idempotency, opened);
    proxy.heal();
    const later = await outcomeOf(
      phase === "transaction"
        ? this.#transaction(witness, seen)
        : witness.run({ key, wait: "5s" }, () => effect(seen)),
    );
    this.#note(phase, first, later);
    if (phase === "transaction") seen.effects = await this.#subject.orders!.count(key);
    assertLater(one, seen, first, later);
  }

  async #underFault(
    { phase, fault }: Case,
    proxy: FaultProxy,
    idempotency: Idempotency,
    seen: Seen,
  ): Promise<unknown> {
    const { key } = seen;
    switch (phase) {
      case "connecting":
      case "claim":
        void proxy.arm(fault);
        return idempotency.run({ key }, () => effect(seen));
      case "completion":
        return idempotency.run({ key }, () => {
          void proxy.arm(fault);
          return effect(seen);
        });
      case "renewal":
        return idempotency.run({ key, lease: LEASE_OF_RENEWALS }, async () => {
          const value = effect(seen);
          await proxy.arm(fault);
          return value;
        });
      case "transaction":
        void proxy.arm(fault);
        return this.#transaction(idempotency, seen);
    }
  }

  async #transaction(idempotency: Idempotency, seen: Seen): Promise<unknown> {
    const { key } = seen;
    return idempotency.transaction({ key }, async (transaction) => {
      try {
        await this.#subject.orders!.insert(transaction, key);
      } catch (error) {
        seen.ownError = error;
        throw error;
      }
      return { by: key };
    });
  }

  /** Nothing leaked: every connection of the client serves other operations, or is soon replaced. */
  async #servesOthers(idempotency: Idempotency, opened: Opened): Promise<void> {
    const { orders } = this.#subject;
    this.tally.harmful++;
    const serves = async () => {
      const outcome = await idempotency.run({ key: newKey() }, () => 1);
      if (outcome.value !== 1 || outcome.replayed) throw new Error("another key was not run");
      // It takes both connections of the pool.
      await (orders && idempotency.transaction({ key: newKey() }, () => orders.ping(opened)));
    };
    for (let tries = 1; ; tries++) {
      const { error } = await outcomeOf(serves());
      if (error === undefined) {
        if (tries === 1) this.tally.servedAtOnce++;
        return;
      }
      await pause(20);
    }
  }

  #note(phase: Phase, first: Result, later: Result): void {
    const words = ({ value, error }: Result) =>
      value === undefined ? String(codeOf(error)) : value.replayed ? "replay" : "ran";
    const answer = `${phase}: ${words(first)}, then ${words(later)}`;
    this.tally.answers.set(answer, (this.tally.answers.get(answer) ?? 0) + 1);
  }

  #proxy(): Promise<FaultProxy> {
    const { target, protocol } = this.#subject;
    return faultProxy({ target, protocol });
  }

  /** With a connection, and its tables checked, unless that is what is to be broken. */
  async #open(proxy: FaultProxy, phase: Phase, timeoutMs: number): Promise<Opened> {
    const opened = await this.#subject.open(proxy.port, timeoutMs);
    // A busy machine may be slower than the client's time-outs.
    const isReady = async () => (await outcomeOf(opened.store.read("0".repeat(32)))).error;
    if (phase !== "connecting") while (await isReady()) await pause(20);
    return opened;
  }
}

function toldOrSilent({ fault }: Pick<Case, "fault">): keyof typeof TIMEOUT_MS {
  return SILENT.includes(fault.kind) ? "silent" : "told";
}

/** What a test sees of an operation, besides its answers. */
interface Seen {
  readonly key: string;
  effects: number;
  /** What the handler's own statement failed with. */
  ownError: unknown;
}

function effect(seen: Seen): { by: string } {
  seen.effects++;
  return { by: seen.key };
}

/** The call under the fault has ended: how it may end. */
function assertFirst({ phase, fault }: Case, seen: Seen, { error }: Result): void {
  if (error === undefined) return;
  if (error !== seen.ownError && !isSemelError(error)) throw new Error(`not Semel's own: ${error}`);
  if (HARMLESS.includes(fault.kind)) throw new Error(`failed, though nothing was lost: ${error}`);
  if (phase === "transaction") return;
  if (seen.effects > 0) throw new Error(`ran, but its caller got ${error}`);
}

/** The duplicate has its answer, and whatever the fault left has been cleaned up. */
function assertLater({ phase, fault }: Case, seen: Seen, first: Result, later: Result): void {
  const { key, effects } = seen;
  if (effects > 1) throw new Error(`${effects} effects`);
  for (const { value } of [first, later]) {
    if (value === undefined) continue;
    if (effects !== 1) throw new Error(`a value, but ${effects} effects`);
    if (value.value.by !== key) throw new Error(`another's value: ${value.value.by}`);
  }
  if (later.value !== undefined) {
    if (first.value !== undefined && !later.value.replayed) throw new Error("ran twice");
    return;
  }
  // A claim that could not be given back is busy; what could not be recorded is busy, then held. That
  // is so where the server has half a statement of a silent client, and with it the record's lock.
  const codes = ["operation-in-progress", "outcome-unknown"];
  const isAllowed = codes.includes(String(codeOf(later.error))) && phase !== "transaction";
  const mayBeUnrecorded = first.value === undefined || SILENT.includes(fault.kind);
  if (!isAllowed || !mayBeUnrecorded) throw new Error(`the duplicate got ${later.error}`);
}

interface Result {
  value?: { value: { by: string }; replayed: boolean };
  error?: unknown;
}

async function outcomeOf(promise: Promise<unknown>): Promise<Result> {
  return promise.then(
    (value) => ({ value }) as Result,
    (error: unknown) => ({ error }),
  );
}

function codeOf(error: unknown): unknown {
  return isSemelError(error) ? error.code : error;
}

/** Rejects when something hangs; a bound, not a measurement. */
async function inTime<Value>(work: Promise<Value>): Promise<Value> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error("hangs")), HANGS_MS);
  });
  return Promise.race([work, late]).finally(() => clearTimeout(timer));
}

/**
 * The tests of one subject.
 *
 * @param setUp runs before them, and returns what runs after them
 */
export function describeFaults(
  subject: Subject,
  missing: string,
  setUp: () => Promise<() => Promise<void>>,
): void {
  describe.skipIf(missing)(`${subject.name} behind a network that fails${missing}`, () => {
    const enumeration = new Enumeration(subject);
    let tearDown = async () => {};

    beforeAll(async () => {
      tearDown = await setUp();
      await enumeration.open();
    });

    afterAll(async () => {
      await enumeration.close();
      await tearDown();
      console.log(summary(subject.name, enumeration.tally));
    });

    test.each(subject.phases)(
      "SM-16, SM-17, SM-22, EN-5: at most one effect, and an end to every call, whatever happens to a message of a %s",
      async (phase) => {
        expect(await enumeration.run(phase)).toEqual([]);
      },
      300_000,
    );
  });
}

/** One line that says what was done. */
function summary(name: string, { injected, held, servedAtOnce, harmful, answers }: Tally): string {
  const counts = [...answers].sort().map(([answer, times]) => `  ${answer}: ${times}`);
  const title = `${name}: ${injected} faults injected, ${held} held the invariant; the next keys served at once after ${servedAtOnce} of ${harmful}`;
  return [title, ...counts].join("\n");
}
