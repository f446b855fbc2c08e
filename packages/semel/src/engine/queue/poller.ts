// Claims what is due and has it done: the one loop that workers (EN-7) and relays (EN-8) share. It
// claims no more than it has room for, renews its claims while they are worked on, and says of each how
// it ended. What it cannot say, because it died, another one finds when the claim has lapsed.

import type { Clock } from "../../clock.ts";
import { AttemptSuperseded, Closed, StoreUnavailable } from "../../errors.ts";
import { publish } from "../../events.ts";
import { backoffMs, bounded, pause, untilAborted } from "../../retry.ts";
import type { ItemEnding, ItemToken, QueueKind, StoredItem, StoreQueue } from "../../store.ts";
import { messageOf } from "../execution.ts";
import { Gathering } from "../gathering.ts";
import { UNANSWERED_MAX } from "../heartbeat.ts";
import { type Persistence, persist } from "../persist.ts";
import type { Nudges } from "./nudges.ts";

export interface PollerHost extends Persistence {
  readonly nudges: Nudges;
  /** How long the store may take to answer, in milliseconds. */
  readonly storeTimeoutMs: number;
  /** All that run here. */
  readonly pollers: Set<Poller>;
  /** A fresh nonce: 16 random bytes in hexadecimal. */
  nonce(): string;
}

/** How an item ended, but for whose it was. */
export type ItemEnd =
  | { kind: "done"; retentionMs: number }
  | { kind: "retry"; dueInMs: number; error: string | null }
  | { kind: "dead"; error: string; retentionMs: number | null };

export interface PollerSettings {
  kind: QueueKind;
  names: readonly string[];
  /** How many are worked on at once. */
  concurrency: number;
  pollMs: number;
  leaseMs: number;
  signal: AbortSignal | undefined;
  /** Does an item. `controller` aborts when it was lost; the work may abort it as well. */
  work(item: StoredItem, controller: AbortController): Promise<ItemEnd>;
  /** An item was given up, and that is recorded. */
  onDead?: ((item: StoredItem, error: string) => void) | undefined;
  /** Closing has waited long enough. */
  onDeadline?: () => void;
}

/** An item that is worked on. */
interface Task {
  readonly item: StoredItem;
  readonly token: ItemToken;
  readonly controller: AbortController;
  /** Its end is known, and being written. */
  isEnding: boolean;
  isLost: boolean;
  isSuspect: boolean;
  /** Renewals that the store has not answered. */
  unanswered: number;
}

const CLAIM_MAX = 1_000;
const CLAIM_MS_MIN = 5_000;
const CLAIM_BACKOFF = { baseMs: 200, capMs: 30_000 };
const CLAIM_PAUSE_MS_MIN = 50;
/** So many failures in a row are worth a word. */
const WARN_FAILURES = 3;
/** Of its lease, what a claim may have used up when its answer arrives. */
const LEASE_SHARE_MAX = 1 / 2;
/** What has crashed so often may be the reason: it is worked on by itself. */
const SUSPECT_CRASHES = 2;
const ERROR_LENGTH_MAX = 1_000;
const DEADLINE_MS = 10_000;
/** The longest that a timer of Node's may last. */
const TIMER_MS_MAX = 2 ** 31 - 1;

export class Poller {
  /** Resolves when it is closed. */
  readonly closed: Promise<void>;
  readonly #host: PollerHost;
  readonly #queue: StoreQueue;
  readonly #clock: Clock;
  readonly #settings: PollerSettings;
  readonly #tasks = new Set<Task>();
  readonly #ending: Gathering<{ task: Task; end: ItemEnd }>;
  readonly #polling: Promise<void>;
  /** What is to be done means that the process is to live, so this one timer keeps it alive. */
  readonly #alive = setInterval(() => {}, TIMER_MS_MAX);
  readonly #stopListening: () => void;
  #drains: { resolve(): void; reject(error: unknown): void }[] = [];
  #onClosed: () => void = () => {};
  #onIdle: () => void = () => {};
  #wake: (() => void) | undefined;
  #isWoken = false;
  #alarm: { at: number; cancel: () => void } | undefined;
  #cancelBeat: () => void = () => {};
  #claimFailures = 0;
  #closing: Promise<number> | undefined;

  constructor(host: PollerHost, queue: StoreQueue, settings: PollerSettings) {
    this.#host = host;
    this.#queue = queue;
    this.#clock = host.clock;
    this.#settings = settings;
    this.#ending = new Gathering((ended) => this.#finish(ended), CLAIM_MAX);
    this.closed = new Promise((resolve) => {
      this.#onClosed = resolve;
    });
    this.#stopListening = host.nudges.listen(settings.kind, (dueInMs) => this.#wakeIn(dueInMs));
    host.pollers.add(this);
    this.#beat();
    this.#polling = this.#poll();
    const { signal } = settings;
    const onAbort = () => void this.close(DEADLINE_MS);
    if (signal?.aborted) onAbort();
    signal?.addEventListener("abort", onAbort, { once: true });
    void this.closed.then(() => signal?.removeEventListener("abort", onAbort));
  }

  /**
   * Claims no more, and waits for what is worked on here, up to a deadline. What still runs then goes
   * on, but its claim is left to lapse.
   *
   * @returns how many still ran
   */
  close(deadlineMs: number): Promise<number> {
    this.#closing ??= this.#close(deadlineMs);
    return this.#closing;
  }

  /**
   * Waits until nothing is due and nothing is worked on here.
   *
   * @throws {Closed}, and what the store answered a claim with
   */
  drain(signal: AbortSignal | undefined): Promise<void> {
    const drained = new Promise<void>((resolve, reject) => {
      if (this.#closing !== undefined) return reject(new Closed());
      this.#drains.push({ resolve, reject });
      this.#ring();
    });
    return signal ? untilAborted(drained, signal) : drained;
  }

  async #close(deadlineMs: number): Promise<number> {
    const idle = new Promise<void>((resolve) => {
      this.#onIdle = resolve;
    });
    this.#stopListening();
    this.#ring();
    const ended = this.#polling.then(() => (this.#tasks.size > 0 ? idle : undefined));
    await bounded(this.#clock, ended, deadlineMs, () => new Error("deadline")).catch(() => {
      this.#settings.onDeadline?.();
    });
    this.#cancelBeat();
    this.#alarm?.cancel();
    clearInterval(this.#alive);
    for (const { reject } of this.#drains.splice(0)) reject(new Closed());
    this.#host.pollers.delete(this);
    this.#onClosed();
    return this.#tasks.size;
  }

  async #poll(): Promise<void> {
    const { concurrency, pollMs } = this.#settings;
    // Whoever makes it has it before it does anything.
    await Promise.resolve();
    while (this.#closing === undefined) {
      this.#isWoken = false;
      const room = Math.min(concurrency - this.#tasks.size, CLAIM_MAX);
      const claimed = room > 0 ? await this.#claim(room) : 0;
      if (claimed === room && room > 0) continue;
      // Spread out, so that many processes do not look at once.
      let restMs = pollMs * (0.5 + this.#host.random());
      if (claimed === undefined) {
        const backoff = backoffMs(CLAIM_BACKOFF, this.#claimFailures, this.#host.random);
        restMs = Math.max(CLAIM_PAUSE_MS_MIN, backoff);
      }
      if (!this.#isWoken) await this.#rest(restMs);
    }
  }

  /** @returns how many there were; `undefined`: the store could not be asked */
  async #claim(limit: number): Promise<number | undefined> {
    const { kind, names, leaseMs } = this.#settings;
    const { storeTimeoutMs, nonce } = this.#host;
    const waiting = this.#drains.splice(0);
    const askedAt = this.#clock.now();
    const owner = nonce();
    // What throws at once is a rejection like any other.
    const claiming = (async () => this.#queue.claim({ kind, names, limit, leaseMs, owner }))();
    try {
      const timeoutMs = Math.max(storeTimeoutMs, CLAIM_MS_MIN);
      const items = await bounded(this.#clock, claiming, timeoutMs, lateAnswer);
      const isLate = this.#clock.now() - askedAt > leaseMs * LEASE_SHARE_MAX;
      for (const item of items) this.#take(item, owner, isLate || this.#closing !== undefined);
      this.#claimFailures = 0;
      if (items.length > 0 || this.#tasks.size > 0) this.#drains.push(...waiting);
      else for (const { resolve } of waiting) resolve();
      return items.length;
    } catch (error) {
      // What is claimed all the same is given back when that is known.
      claiming.then((items) => items.forEach((item) => void this.#take(item, owner, true)), noop);
      for (const { reject } of waiting) reject(error);
      this.#claimFailed(error);
      return undefined;
    }
  }

  #claimFailed(error: unknown): void {
    publish(() => ({ type: "background-failure", during: "claim", error }));
    if (++this.#claimFailures !== WARN_FAILURES) return;
    const { kind } = this.#settings;
    process.emitWarning(
      `The ${kind === "task" ? "worker" : "relay"} cannot claim anything, and goes on trying: ${messageOf(error)}`,
      { type: "SemelWarning", code: "SEMEL_QUEUE" },
    );
  }

  #take(item: StoredItem, owner: string, isHandedOn: boolean): void {
    const isSuspect = item.started - 1 - item.finished >= SUSPECT_CRASHES;
    const task: Task = {
      item,
      token: { id: item.id, started: item.started, owner },
      controller: new AbortController(),
      isEnding: false,
      isLost: false,
      isSuspect,
      unanswered: 0,
    };
    const hasSuspect = isSuspect && [...this.#tasks].some((one) => one.isSuspect);
    const { leaseMs } = this.#settings;
    const dueInMs = hasSuspect ? Math.round(leaseMs * (0.5 + this.#host.random())) : 0;
    this.#tasks.add(task);
    if (!isHandedOn && !hasSuspect) void this.#work(task);
    else void this.#end(task, { kind: "retry", dueInMs, error: null });
  }

  async #work(task: Task): Promise<void> {
    let end: ItemEnd;
    try {
      end = await this.#settings.work(task.item, task.controller);
    } catch (error) {
      const { operation: id } = task.item;
      publish(() => ({ type: "misuse", id, message: `work() threw: ${messageOf(error)}` }));
      end = { kind: "retry", dueInMs: this.#settings.leaseMs, error: messageOf(error) };
    }
    await this.#end(task, end);
  }

  async #end(task: Task, end: ItemEnd): Promise<void> {
    task.isEnding = true;
    if (!task.isLost) await this.#ending.add({ task, end });
    this.#tasks.delete(task);
    if (this.#tasks.size === 0) this.#onIdle();
    // There is room, and what comes after it in its operation may be due.
    this.#ring();
  }

  async #finish(ended: { task: Task; end: ItemEnd }[]): Promise<void> {
    const endings = ended.map(({ task: { token }, end }): ItemEnding => {
      if (end.kind === "done" || end.error === null) return { ...token, ...end };
      return { ...token, ...end, error: end.error.slice(0, ERROR_LENGTH_MAX) };
    });
    let tries = 0;
    const written = await persist(this.#host, () => {
      tries++;
      return this.#queue.finish(endings);
    });
    if (written.kind === "unrecorded") {
      const { error } = written;
      publish(() => ({ type: "background-failure", during: "finish", error }));
      return;
    }
    for (const [place, { task, end }] of ended.entries()) {
      const isRefused = written.answer[place]?.kind === "stale";
      // What was refused may have been written before, by a try whose reply was lost.
      const isStale = isRefused && (tries === 1 || !(await this.#isWritten(task, end)));
      this.#publish(task, isStale ? "lost" : outcomeOf(end), end);
      if (isStale) continue;
      if (end.kind === "dead") this.#settings.onDead?.(task.item, end.error);
      if (end.kind === "retry") this.#wakeIn(end.dueInMs);
    }
  }

  /** Whether an item ended as it was to, and nobody has claimed it since. */
  async #isWritten({ item }: Task, end: ItemEnd): Promise<boolean> {
    try {
      const found = await this.#queue.read(item.id);
      if (found === undefined) return end.kind === "done";
      const state = end.kind === "retry" ? "waiting" : end.kind;
      // What is handed on counts as not claimed; anything else as one that has ended.
      const counted = outcomeOf(end) === "handed-on" ? 0 : 1;
      return (
        found.state === state &&
        found.started === item.started - 1 + counted &&
        found.finished === item.finished + counted
      );
    } catch {
      // Whoever looks next finds it as it is.
      return false;
    }
  }

  #publish(
    { item }: Task,
    outcome: "done" | "retry" | "handed-on" | "dead" | "lost",
    end?: ItemEnd,
  ): void {
    publish(() => ({
      type: item.kind,
      id: item.operation,
      item: item.id,
      name: item.name,
      outcome,
      ...(end && "error" in end && end.error !== null && { error: end.error }),
    }));
  }

  /** Renews what is worked on at a third of the lease, as heartbeats do. */
  #beat(): void {
    this.#cancelBeat = this.#clock.schedule(this.#settings.leaseMs / 3, () => {
      this.#beat();
      const tasks = [...this.#tasks].filter(
        ({ isEnding, isLost, unanswered }) => !isEnding && !isLost && unanswered < UNANSWERED_MAX,
      );
      for (let from = 0; from < tasks.length; from += CLAIM_MAX) {
        void this.#renew(tasks.slice(from, from + CLAIM_MAX));
      }
    });
  }

  async #renew(tasks: Task[]): Promise<void> {
    for (const task of tasks) task.unanswered++;
    try {
      const tokens = tasks.map(({ token }) => token);
      const answers = await this.#queue.renew(tokens, this.#settings.leaseMs);
      for (const [place, task] of tasks.entries()) {
        if (answers[place]?.kind !== "stale" || task.isEnding) continue;
        task.isLost = true;
        this.#publish(task, "lost");
        task.controller.abort(new AttemptSuperseded());
      }
    } catch (error) {
      // The next beat tries again; until somebody takes a lapsed claim, it stands.
      publish(() => ({ type: "background-failure", during: "renew", error }));
    } finally {
      for (const task of tasks) task.unanswered--;
    }
  }

  #ring(): void {
    this.#isWoken = true;
    this.#wake?.();
  }

  /** Looks again when something will be due, if that is before the next look. */
  #wakeIn(dueInMs: number): void {
    if (dueInMs <= 0) {
      this.#ring();
      return;
    }
    const at = this.#clock.now() + dueInMs;
    if (dueInMs > this.#settings.pollMs || (this.#alarm && this.#alarm.at <= at)) return;
    this.#alarm?.cancel();
    const ring = () => {
      this.#alarm = undefined;
      this.#ring();
    };
    this.#alarm = { at, cancel: this.#clock.schedule(dueInMs, ring) };
  }

  #rest(ms: number): Promise<void> {
    const woken = new Promise<void>((resolve) => {
      this.#wake = resolve;
    });
    return pause(this.#clock, ms, undefined, woken);
  }
}

function outcomeOf(end: ItemEnd): "done" | "retry" | "handed-on" | "dead" {
  return end.kind === "retry" && end.error === null ? "handed-on" : end.kind;
}

function lateAnswer(): Error {
  return new StoreUnavailable("The store did not answer in time; nothing was claimed");
}

function noop(): void {}
