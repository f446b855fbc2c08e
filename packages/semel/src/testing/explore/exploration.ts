// What is explored, and what comes of it: the options and the report of `explore()`.

import type { Idempotency, IdempotencyOptions } from "../../engine/idempotency.ts";
import type { Store } from "../../store.ts";
import type { ManualClock } from "../manual-clock.ts";

/**
 * Something that goes wrong at a point: a call of the store, or an effect.
 *
 * - `"crash-before"`, `"crash-after"`: the process dies before the call reaches the other side, or
 *   after it did, and before its reply came.
 * - `"fail"`: the call is lost; `"lost-reply"`: its reply is. The process goes on with an error.
 * - `"pause-before"`, `"pause-after"`: the process stands still for longer than its lease, while a
 *   successor runs the operation; then it goes on as if nothing had been.
 * - `"duplicate"`: another process asks for the same operation at that moment.
 * - `"resent"`: a driver sends a call of the store twice; effects are not resent.
 */
export type ExplorationFault =
  | "crash-before"
  | "crash-after"
  | "fail"
  | "lost-reply"
  | "pause-before"
  | "pause-after"
  | "duplicate"
  | "resent";

export const EXPLORATION_FAULTS: readonly ExplorationFault[] = [
  "crash-before",
  "crash-after",
  "fail",
  "lost-reply",
  "pause-before",
  "pause-after",
  "duplicate",
  "resent",
];

export interface EffectOptions<Value> {
  /**
   * Given when whoever makes the effect remembers this key: asked again with it, they do nothing and
   * answer as before. Without it, every call is another effect.
   */
  idempotencyKey?: string;
  /** What the effect answers; it may do real work. @default how many effects of this name there are */
  work?: () => Value | Promise<Value>;
}

/** A process that asks for the operation: everything in it dies with it. */
export interface ExploredProcess {
  /** Over the store that all processes share, by a clock that stands still between events. */
  readonly idempotency: Idempotency;
  /** The same store, for what makes an engine or a server of its own on it. */
  readonly store: Store;
  readonly clock: ManualClock;
  /**
   * Something that the handler does to the world: a charge, a mail. Whatever is not asked for through
   * this or the store is neither interrupted nor counted.
   */
  readonly effect: <Value = number>(name: string, options?: EffectOptions<Value>) => Promise<Value>;
}

export interface ExplorationOptions {
  /**
   * How often these effects have to have happened once the operation has completed; others do not matter.
   * @default all of them as often as when nothing goes wrong
   */
  expected?: Readonly<Record<string, number>>;
  /**
   * Work behind the operation, such as `relay.drain()`: in a process of its own, after the callers, and
   * again until nothing is left to do.
   */
  background?: (process: ExploredProcess) => Promise<unknown>;
  /** What may go wrong. @default everything */
  faults?: readonly ExplorationFault[];
  /** How many things go wrong in one run: `2` takes the square of the time. @default 1 */
  depth?: 1 | 2;
  /** Where records are kept, made anew for every run. @default `memoryStore({ clock })` */
  store?: (clock: ManualClock) => Store | Promise<Store>;
  /** For the engine of every process, beside its store and clock. */
  idempotency?: Omit<IdempotencyOptions, "store" | "clock">;
  /** Told after every run, for progress. */
  onRun?: (done: number) => void;
}

/** Where something went wrong in a run. */
export interface InjectedFault {
  /** Such as `settle #1` or `effect "charge" #1`. */
  point: string;
  fault: ExplorationFault;
}

/** Something that must not be. */
export interface Violation {
  /**
   * - `twice`: an effect happened more often than it should.
   * - `missing`: the operation completed, and an effect did not happen.
   * - `different-answers`: two callers got different values.
   * - `stuck`: it neither completed nor is held, however often it was asked for again.
   */
  kind: "twice" | "missing" | "different-answers" | "stuck";
  /** The effect, where it is one's. */
  effect?: string;
  times?: number;
  expected?: number;
  /** What went wrong in the shortest run that shows it. */
  faults: readonly InjectedFault[];
  /** That run, event by event. */
  trace: readonly string[];
  /** How many runs show it. */
  runs: number;
}

/** What an exploration found. `String(report)` is for people. */
export interface ExplorationReport {
  /** Nothing happened twice, or not at all. Operations that ended held are no violations. */
  ok: boolean;
  /** Calls of the store and effects of one run without faults. */
  points: number;
  runs: number;
  /** How the operation ended in these runs. */
  endings: { completed: number; held: number };
  /** The shortest trace of each kind and effect, shortest first. */
  violations: readonly Violation[];
  toString(): string;
}

/** What one run came to. */
export interface RunResult {
  ending: "completed" | "held" | "stuck";
  effects: ReadonlyMap<string, number>;
  /** Different values that callers got, in words. */
  answers: ReadonlySet<string>;
  faults: readonly InjectedFault[];
  trace: readonly string[];
}

/** Collects what runs came to. */
export class Findings {
  readonly #expected: ReadonlyMap<string, number>;
  /** Effects that are not expected do not count. */
  readonly #isClosed: boolean;
  readonly #violations = new Map<string, Violation>();
  readonly #endings = { completed: 0, held: 0 };
  #runs = 0;

  /**
   * @param calm how often effects happened when nothing went wrong
   * @param expected the only ones that count, where they are given
   */
  constructor(
    calm: ReadonlyMap<string, number>,
    expected: Readonly<Record<string, number>> | undefined,
  ) {
    this.#expected = expected ? new Map(Object.entries(expected)) : calm;
    this.#isClosed = expected !== undefined;
  }

  add(result: RunResult): void {
    this.#runs++;
    const { ending, effects, answers } = result;
    if (ending === "stuck") this.#violated(result, { kind: "stuck" });
    else this.#endings[ending]++;
    if (answers.size > 1) this.#violated(result, { kind: "different-answers" });
    const others = this.#isClosed ? [] : effects.keys();
    for (const effect of new Set([...this.#expected.keys(), ...others])) {
      const times = effects.get(effect) ?? 0;
      const expected = this.#expected.get(effect) ?? 0;
      if (times > expected) this.#violated(result, { kind: "twice", effect, times, expected });
      if (times < expected && ending === "completed") {
        this.#violated(result, { kind: "missing", effect, times, expected });
      }
    }
  }

  #violated(
    { faults, trace }: RunResult,
    found: Pick<Violation, "kind" | "effect" | "times" | "expected">,
  ): void {
    const name = `${found.kind} ${found.effect ?? ""}`;
    const known = this.#violations.get(name);
    const runs = (known?.runs ?? 0) + 1;
    const isShorter = known === undefined || trace.length < known.trace.length;
    this.#violations.set(name, isShorter ? { ...found, faults, trace, runs } : { ...known, runs });
  }

  report(points: number): ExplorationReport {
    const violations = [...this.#violations.values()].sort(
      (one, other) => one.trace.length - other.trace.length,
    );
    const report = {
      ok: violations.length === 0,
      points,
      runs: this.#runs,
      endings: this.#endings,
      violations,
    };
    return { ...report, toString: () => textOf(report) };
  }
}

function textOf(report: Omit<ExplorationReport, "toString">): string {
  const { ok, points, runs, endings, violations } = report;
  const head = `${runs} runs over ${points} points: ${endings.completed} completed, ${endings.held} held`;
  if (ok) return `${head}; nothing happened twice, or not at all`;
  return [head, ...violations.map(textOfViolation)].join("\n\n");
}

function textOfViolation(violation: Violation): string {
  const { faults, trace, runs } = violation;
  const where = faults.map(({ fault, point }) => `${fault} at ${point}`).join(", then ");
  return [
    `${sentenceOf(violation)} (${runs} runs), first: ${where || "without any fault"}`,
    ...trace.map((line) => `  ${line}`),
  ].join("\n");
}

function sentenceOf({ kind, effect, times, expected }: Violation): string {
  switch (kind) {
    case "twice":
      return `"${effect}" happened ${times} times instead of ${expected}`;
    case "missing":
      return `"${effect}" happened ${times} times instead of ${expected}, and the operation completed`;
    case "different-answers":
      return "Two callers got different answers";
    case "stuck":
      return "The operation neither completed nor is held";
  }
}
