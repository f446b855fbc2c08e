// The named steps of an operation (EN-6): each one's result is saved as soon as it is known, and what
// was saved is never computed again, by whichever attempt.

import type { Codec } from "../codec.ts";
import { durationMs } from "../duration.ts";
import {
  AttemptSuperseded,
  InvalidOption,
  NotSerializable,
  OperationFailed,
  OperationHeld,
  RecordUnreadable,
  StepInvalid,
  StepsDiverged,
  StoreUnavailable,
} from "../errors.ts";
import { isObserved, publish } from "../events.ts";
import { assertKnownOptions } from "../options.ts";
import { backoffMs, pause } from "../retry.ts";
import type {
  SettleAnswer,
  SqlExecutor,
  Store,
  StoredRecord,
  StoreTransactions,
} from "../store.ts";
import type { Attempt } from "./attempt.ts";
import type { TransactionEffects } from "./effects/effects.ts";
import { Gathering } from "./gathering.ts";
import { type Entry, framedEntry } from "./journal.ts";
import { type Persistence, persist } from "./persist.ts";
import { isDone, type Saved, savedOf } from "./saved-steps.ts";
import type { Step, StepContext, StepOptions, TransactionStepContext } from "./step.ts";
import { assertName, stepKey } from "./steps-in-transaction.ts";
import { Underway } from "./underway.ts";

/** Why an operation that failed for good could not be undone. */
export interface UndoFailure {
  reason: string;
  error: unknown;
}

/** What steps need of the engine. */
export interface StepsHost extends Persistence {
  readonly store: Store;
  readonly codec: Codec;
  readonly maxResultBytes: number;
  read(id: string): Promise<StoredRecord | undefined>;
  /** Works in a transaction of the store's, in its turn among all of this process. */
  inTransaction<Transaction, Value>(
    work: (transaction: Transaction, executor: SqlExecutor) => Promise<Value>,
  ): Promise<Value>;
}

/** Journals are read whole; what stores keep of one is bounded by this. */
const JOURNAL_BYTES_MAX = 16 * 2 ** 20;
/** How long branches that a failure has left behind are waited for, and how often it is looked. */
const BRANCHES_MS = { max: 1_000, poll: 10 };
const TRANSACTION_TRIES_MAX = 10;
const TRANSACTION_BACKOFF = { baseMs: 5, capMs: 500 };

/** A step as this execution called it. */
interface Call {
  name: string;
  /** How many others were called before it. */
  place: number;
  /** Whether no other was under way at any time of it. */
  alone: boolean;
  /** Whether the operation had failed for good by then: only what is saved may still be called. */
  isLate: boolean;
  state: "running" | "done" | "failed";
  calledAt: number;
  undo: ((value: never, context: StepContext) => unknown) | undefined;
}

/** The steps of one execution. */
export class Steps {
  readonly step: Step;
  readonly #host: StepsHost;
  readonly #attempt: Attempt;
  readonly #calls = new Map<string, Call>();
  readonly #underway = new Underway();
  /** The last one that was called when no other was under way: the only one that may run alone. */
  #lone: Call | undefined;
  /** The step whose work is being called right now. */
  #inside: string | undefined;
  /** How to undo what has been done, in the order in which the steps ended in this execution. */
  readonly #undoing = new Map<string, (context: StepContext) => unknown>();
  #saved: Promise<Saved> | undefined;
  #journalBytes = 0;
  readonly #saving = new Gathering<Uint8Array>((chunks) => this.#write(Buffer.concat(chunks)));
  /** Why the operation cannot go on from here. */
  #stop: Error | undefined;

  constructor(host: StepsHost, attempt: Attempt) {
    this.#host = host;
    this.#attempt = attempt;
    this.step = Object.assign(
      <Value>(name: string, work: Work<Value>, options: StepOptions<Value> = {}) => {
        assertKnownOptions(options, ["undo", "keyRetention"], `step "${name}"`);
        return this.#called(name, work, options, (call) => this.#run(call, work, options));
      },
      {
        transaction: <Transaction, Value>(
          name: string,
          work: TransactionStepWork<Transaction, Value>,
          options: StepOptions<Value> = {},
        ) => {
          assertKnownOptions(options, ["undo"], `step.transaction "${name}"`);
          return this.#called(name, work, options, (call) => this.#transact(call, work));
        },
      },
    ) as Step;
  }

  /** Waits for steps that nobody waited for; none may be called from here on. */
  finish(): Promise<void> {
    return this.#underway.finish();
  }

  /**
   * The handler has returned: what it did must be what the record shows.
   *
   * @throws what a step failed with that nobody waited for; {@link StepsDiverged}
   */
  async conclude(): Promise<void> {
    for (const error of await this.#underway.conclude()) {
      this.#holdBy(error, "step-unawaited: nobody waited for a step, and it failed");
    }
    if (this.#stop) throw this.#stop;
    if (!this.#saved) return;
    for (const [name, { head }] of (await this.#saved).done) {
      // One that ran beside others may have been called in the work of one of them.
      if (!head.alone || this.#calls.has(name)) continue;
      throw this.#diverged(`the step "${name}" was not called`);
    }
  }

  /**
   * The operation has failed for good: undoes its steps, the last one first. That it has failed is
   * saved before, so that whatever becomes of this attempt, no other one goes on as if it had not.
   *
   * @returns what went wrong, if something did; another attempt may go on from there
   */
  async undo(failure: unknown): Promise<UndoFailure | undefined> {
    if (!this.#host.store.append) return undefined;
    let undoing: { name: string; calledAt: number } | undefined;
    try {
      const saved = await this.#load();
      const unknown = await this.#withoutUndo(saved);
      if (this.#stop) throw this.#stop;
      if (unknown.length === 0 && this.#undoing.size === 0) return undefined;
      if (!this.#attempt.failure) await this.#saveFailure(failure);
      if (unknown.length > 0) return undoUnknown(unknown);
      const { attempt } = this.#attempt;
      // What is replayed may end in another order than it did.
      const names = new Set([...saved.done.keys(), ...this.#undoing.keys()]);
      for (const name of [...names].toReversed()) {
        const undo = this.#undoing.get(name);
        if (undo === undefined || saved.undone.has(name)) continue;
        undoing = { name, calledAt: this.#host.clock.now() };
        await this.#calling(name, () => undo(this.#contextOf(`undo of ${name}`)));
        await this.#saving.add(framedEntry({ kind: "undone", name, attempt }));
        saved.undone.add(name);
        this.#publish(undoing, "undone");
      }
      return undefined;
    } catch (error) {
      if (undoing) this.#publish(undoing, "failed");
      const which = undoing ? ` step "${undoing.name}":` : "";
      return { reason: `undo-failed:${which} ${messageOf(error)}`, error };
    }
  }

  async #saveFailure(failure: unknown): Promise<void> {
    const { attempt } = this.#attempt;
    const name = failure instanceof Error ? String(failure.name) : "Error";
    const head = { kind: "failed", name, message: messageOf(failure), attempt } as const;
    await this.#saving.add(framedEntry(head));
  }

  /** Waits for what is under way. @returns steps that are to be undone, and nobody here knows how */
  async #withoutUndo({ toUndo, places }: Saved): Promise<string[]> {
    const { clock } = this.#host;
    // Where steps ran beside each other, the others' branches may yet come to theirs.
    const givesUpAt = clock.now() + (places.size > 0 ? 0 : BRANCHES_MS.max);
    for (;;) {
      await this.finish();
      const unknown = toUndo.filter((name) => !this.#undoing.has(name));
      if (unknown.length === 0 || clock.now() >= givesUpAt) return unknown;
      await pause(clock, BRANCHES_MS.poll);
    }
  }

  #called<Value>(
    name: string,
    work: unknown,
    { undo }: StepOptions<Value>,
    run: (call: Call) => Promise<Value>,
  ): Promise<Value> {
    try {
      if (typeof work !== "function") throw new StepInvalid(`Step "${name}" takes a function`);
      const ran = this.#settled(this.#enter(name, undo), run);
      this.#underway.track(ran);
      return ran;
    } catch (error) {
      return Promise.reject(error);
    }
  }

  #enter(name: string, undo: Call["undo"]): Call {
    assertName(name);
    if (this.#inside !== undefined) throw calledInside(name, this.#inside);
    const isLate = this.#underway.isOver;
    if (isLate && !this.#attempt.isUndoing) throw calledLate(name);
    const earlier = this.#calls.get(name);
    if (earlier && earlier.state !== "failed") {
      throw new StepInvalid(
        `Step "${name}" was called twice; names are unique within an operation, such as \`${name}-\${i}\` in a loop`,
      );
    }
    const alone = this.#underway.size === 0;
    const place = earlier?.place ?? this.#calls.size;
    const calledAt = isObserved() ? this.#host.clock.now() : 0;
    const call: Call = { name, place, alone, isLate, state: "running", calledAt, undo };
    this.#calls.set(name, call);
    if (alone) this.#lone = call;
    else if (this.#lone) this.#lone.alone = false;
    return call;
  }

  async #settled<Value>(call: Call, run: (call: Call) => Promise<Value>): Promise<Value> {
    try {
      const saved = await this.#load();
      if (this.#stop) throw this.#stop;
      const done = saved.done.get(call.name);
      if (!done && call.isLate) throw calledLate(call.name);
      this.#assertPath(call, saved);
      const { failure } = this.#attempt;
      if (!done && failure) throw new OperationFailed(failure);
      const value = done ? (this.#decoded(done) as Value) : await run(call);
      call.state = "done";
      this.#made(call, value);
      this.#publish(call, done ? "replayed" : "ran");
      return value;
    } catch (error) {
      call.state = "failed";
      this.#publish(call, "failed");
      throw error;
    }
  }

  /** From here on there is something to undo. */
  #made({ name, undo }: Call, value: unknown): void {
    if (undo) this.#undoing.set(name, (context) => undo(value as never, context));
  }

  async #run<Value>(call: Call, work: Work<Value>, options: StepOptions<Value>): Promise<Value> {
    if (options.keyRetention !== undefined) {
      await this.#begin(call.name, durationMs(options.keyRetention, "keyRetention", { minMs: 1 }));
    }
    const value = await this.#calling(call.name, () => work(this.#contextOf(call.name)));
    // Also should the save fail: it has been done.
    this.#made(call, value);
    await this.#saving.add(this.#entryOf(call, value));
    return value;
  }

  /** Calls a step's work, or its undoing, unless that is another attempt's to do by now. */
  #calling<Returned>(name: string, work: () => Returned): Returned {
    if (this.#attempt.isSuperseded) throw new AttemptSuperseded();
    this.#inside = name;
    try {
      return this.#attempt.calling(work, name);
    } finally {
      this.#inside = undefined;
    }
  }

  /** Notes that a step is about to run; refuses one that may have run too long ago. */
  async #begin(name: string, keyRetentionMs: number): Promise<void> {
    const saved = await this.#load();
    const ageMs = saved.ageMs + this.#host.clock.now() - saved.readAt;
    const begunAtMs = saved.begun.get(name);
    if (begunAtMs === undefined) {
      const { attempt } = this.#attempt;
      await this.#saving.add(framedEntry({ kind: "begun", name, attempt, ageMs }));
    } else if (ageMs - begunAtMs > keyRetentionMs) {
      const reason = `step-in-doubt: "${name}" may have run longer ago than its key is remembered`;
      throw this.#holdBy(new OperationHeld(reason), reason);
    }
  }

  /** In one transaction with its result; what a lost commit did is read back. */
  async #transact<Transaction, Value>(
    call: Call,
    work: TransactionStepWork<Transaction, Value>,
  ): Promise<Value> {
    const transactions = this.#transactions<Transaction>();
    const epoch = async () => String(await this.#attempt.createdAt());
    for (let tries = 0; ; tries++) {
      let made: { value: Value } | undefined;
      let effects: TransactionEffects | undefined;
      try {
        const value = await this.#host.inTransaction<Transaction, Value>(async (tx, executor) => {
          const own = this.#attempt.effects.within(executor, epoch);
          effects = own;
          const context = Object.assign(this.#contextOf(call.name), { effect: own.record });
          let value: Value;
          try {
            value = await this.#calling(call.name, () => work(tx, context));
          } catch (error) {
            // What is under way would be written outside of the transaction once that is rolled back.
            await own.conclude().catch(() => {});
            throw error;
          }
          await own.conclude();
          const entry = { ...this.#attempt.token, bytes: this.#entryOf(call, value) };
          this.#assertSaved(await transactions.append(executor, entry));
          made = { value };
          return value;
        });
        effects?.committed();
        return value;
      } catch (error) {
        if (made && (await this.#isSaved(call.name))) return made.value;
        effects?.rolledBack();
        if (tries === TRANSACTION_TRIES_MAX || !transactions.isRetryable(error)) throw error;
        await pause(this.#host.clock, backoffMs(TRANSACTION_BACKOFF, tries, this.#host.random));
      }
    }
  }

  #transactions<Transaction>() {
    const { store } = this.#host;
    const transactions = store.transactions as StoreTransactions<Transaction> | undefined;
    if (transactions?.append) return transactions as Required<StoreTransactions<Transaction>>;
    throw new InvalidOption(
      `The ${store.name} store has no transactions for steps; use step(), or a Postgres, MySQL or SQLite store`,
    );
  }

  /**
   * Whether a transaction whose commit was not answered has committed. It may still be on its way; but it
   * has written to the record, so that a renewal waits for its end.
   */
  async #isSaved(name: string): Promise<boolean> {
    const { id } = this.#attempt.token;
    const looked = await persist(this.#host, async () => {
      await this.#attempt.renew();
      return this.#host.read(id);
    });
    if (looked.kind === "answered") return isDone(looked.answer, name);
    const error = new StoreUnavailable(
      `It is not known whether the transaction of step "${name}" has committed`,
      { cause: looked.error },
    );
    // This execution must not run it again; the next one finds out.
    this.#stop ??= error;
    throw error;
  }

  #entryOf({ name, place, alone, undo }: Call, value: unknown): Uint8Array {
    const { attempt } = this.#attempt;
    try {
      const bytes = this.#host.codec.encode(value);
      const most = this.#host.maxResultBytes;
      if (bytes.byteLength > most) throw new Error(`it takes ${bytes.byteLength} bytes of ${most}`);
      const head = { kind: "done", name, attempt, place, alone } as const;
      return framedEntry(undo ? { ...head, undo: true } : head, bytes);
    } catch (cause) {
      const why = `the result of step "${name}" cannot be stored: ${messageOf(cause)}`;
      const error = new NotSerializable(`It ran, and ${why}. The operation is held`, { cause });
      throw this.#holdBy(error, `not-serializable: ${why}`);
    }
  }

  #decoded({ head, value }: Entry): unknown {
    try {
      return this.#host.codec.decode(value);
    } catch (cause) {
      throw new RecordUnreadable(`The result of step "${head.name}" cannot be decoded`, { cause });
    }
  }

  /** What earlier attempts left; of the first one, nothing. */
  #load(): Promise<Saved> {
    this.#saved ??= this.#read();
    return this.#saved;
  }

  async #read(): Promise<Saved> {
    const { store } = this.#host;
    if (!store.append) {
      throw new InvalidOption(
        `The ${store.name} store keeps no steps; see docs/writing-a-store.md`,
      );
    }
    const { attempt, beganAt } = this.#attempt;
    if (attempt === 1) return savedOf(undefined, beganAt);
    const { record, readAt } = await this.#attempt.found();
    return savedOf(record, readAt);
  }

  /** Where steps followed each other, they must do so again. */
  #assertPath({ name, place }: Call, { done, places }: Saved): void {
    const recorded = done.get(name)?.head;
    if (recorded && places.size > 0 && recorded.place !== place) {
      throw this.#diverged(`the step "${name}" came after ${recorded.place} others, now ${place}`);
    }
    const other = places.get(place);
    if (other !== undefined && other !== name) {
      throw this.#diverged(`the step "${other}" stood where "${name}" stands now`);
    }
  }

  #diverged(why: string): Error {
    const error = new StepsDiverged(
      `This execution took another path than the one before it: ${why}. The operation is held; resolve it, or deploy the code that began it`,
    );
    return this.#holdBy(error, `steps-diverged: ${why}`);
  }

  /** Whatever the handler makes of the error: nobody may run this again without a look at it. */
  #holdBy<Thrown>(error: Thrown, reason: string): Thrown {
    this.#stop ??= error instanceof Error ? error : new Error(String(error));
    this.#attempt.holdBecause(reason);
    return error;
  }

  async #write(bytes: Uint8Array): Promise<void> {
    const saved = await this.#load();
    this.#journalBytes += bytes.byteLength;
    if (saved.bytes + this.#journalBytes > JOURNAL_BYTES_MAX) {
      const reason = `steps-too-large: the results of its steps take more than ${JOURNAL_BYTES_MAX} bytes`;
      throw this.#holdBy(new OperationHeld(reason), reason);
    }
    const { store } = this.#host;
    const entry = { ...this.#attempt.token, bytes };
    const written = await persist(this.#host, () => store.append!(entry));
    if (written.kind === "answered") return this.#assertSaved(written.answer);
    throw new StoreUnavailable("The result of a step could not be saved", { cause: written.error });
  }

  #assertSaved(answer: SettleAnswer): void {
    if (answer.kind === "settled") return;
    this.#attempt.superseded();
    throw new AttemptSuperseded();
  }

  #contextOf(name: string): StepContext {
    const attempt = this.#attempt;
    return {
      idempotencyKey: stepKey(attempt.token.id, name),
      attempt: attempt.attempt,
      get signal() {
        return attempt.signal;
      },
    };
  }

  #publish(
    { name, calledAt }: Pick<Call, "name" | "calledAt">,
    outcome: "ran" | "replayed" | "failed" | "undone",
  ): void {
    const { id, attempt } = this.#attempt.token;
    const { clock } = this.#host;
    publish(() => {
      const durationMs = calledAt === 0 ? 0 : clock.now() - calledAt;
      return { type: "step", id, attempt, name, outcome, durationMs };
    });
  }
}

type Work<Value> = (context: StepContext) => Value | Promise<Value>;
type TransactionStepWork<Transaction, Value> = (
  transaction: Transaction,
  context: TransactionStepContext,
) => Value | Promise<Value>;

/** Told where it costs nothing: up to the first `await` of the work. */
function calledInside(name: string, outer: string): StepInvalid {
  return new StepInvalid(
    `Step "${name}" was called in the work of step "${outer}", which no later attempt calls once its result is saved; call it before or after "${outer}"`,
  );
}

function calledLate(name: string): StepInvalid {
  return new StepInvalid(`Step "${name}" was called after the operation's end`);
}

/** Nothing is undone then, as what came last is undone first. */
function undoUnknown(names: readonly string[]): UndoFailure {
  const steps = names.map((name) => `"${name}"`).join(", ");
  const why = `the attempt that failed did not call ${steps} with its \`undo\``;
  return { reason: `undo-unknown: ${why}`, error: new StepsDiverged(`Not undone: ${why}`) };
}

/** Never throws: a handler may throw anything at all. */
function messageOf(error: unknown): string {
  try {
    return String(error instanceof Error ? error.message : error);
  } catch {
    return "an error without a message";
  }
}
