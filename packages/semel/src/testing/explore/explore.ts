// Runs a user's own operation with something going wrong at every call of the store and every effect,
// one run for each, and says what happened twice or not at all (TK-1).

import { isDeepStrictEqual } from "node:util";
import { InvalidOption, isSemelError } from "../../errors.ts";
import { assertInteger, assertKnownOptions, assertOneOf } from "../../options.ts";
import {
  EXPLORATION_FAULTS,
  type ExplorationFault,
  type ExplorationOptions,
  type ExplorationReport,
  type ExploredProcess,
  Findings,
  type RunResult,
} from "./exploration.ts";
import { LONG_MS, type Plan, type SimulatedProcess, World } from "./world.ts";

const OPTIONS = [
  "expected",
  "background",
  "faults",
  "depth",
  "store",
  "idempotency",
  "onRun",
] as const;
/** How often a caller asks again before it gives up. */
const CALLS_MAX = 12;
/** What was left behind is due again after the first, and its rest after the second. */
const BACKGROUND_ROUNDS = 3;

/** Asks for the operation, always the same one: what is explored. */
export type ExploredRun = (process: ExploredProcess) => unknown;

/**
 * Explores an operation: runs it once without faults, and then again and again, with each fault at each
 * call of the store and each effect in turn. After the fault, callers ask again, as real ones do, until the
 * operation has completed or is held. The code is the real one; time is simulated.
 *
 * @param run asks for the operation through the process that it is given: with `idempotency.run()`, or by a
 * handler of `semel/fetch`, whose `Response` counts as its answer. It is called once for each caller, and has to
 * ask for the same key each time
 * @returns what happened twice, or not at all, each with its shortest trace
 * @throws {InvalidOption}; what the operation does when nothing goes wrong, if it does not complete
 * @example
 * const report = await explore(({ idempotency, effect }) =>
 *   idempotency.run({ key: "order-42", onCrash: "rerun" }, ({ step }) =>
 *     step("charge", ({ idempotencyKey }) => effect("charge", { idempotencyKey })),
 *   ),
 * );
 * assert.ok(report.ok, String(report));
 */
export async function explore(
  run: ExploredRun,
  options: ExplorationOptions = {},
): Promise<ExplorationReport> {
  assertExplorable(run, options);
  const { faults = EXPLORATION_FAULTS, depth = 1, expected, onRun } = options;
  const calm = await runOnce(run, new Map(), options);
  if (calm.result.ending !== "completed") {
    throw new Error(
      `Without any fault the operation ended ${calm.result.ending}:\n${calm.result.trace.join("\n")}`,
      { cause: calm.failure },
    );
  }
  const findings = new Findings(calm.result.effects, expected);
  let runs = 0;
  const found = async (plan: Plan) => {
    const { result, points } = await runOnce(run, plan, options);
    findings.add(result);
    onRun?.(++runs);
    return points;
  };
  await found(new Map());
  for (const first of plansAfter(new Map(), calm.points, faults)) {
    const points = await found(first);
    if (depth === 1) continue;
    for (const second of plansAfter(first, points, faults)) await found(second);
  }
  return findings.report(calm.points);
}

/** Every plan that has one more fault than this one, after the others. */
function* plansAfter(
  plan: Plan,
  points: number,
  faults: readonly ExplorationFault[],
): Generator<Plan> {
  const from = Math.max(0, ...plan.keys()) + 1;
  for (let point = from; point <= points; point++) {
    for (const fault of faults) yield new Map([...plan, [point, fault]]);
  }
}

function assertExplorable(run: unknown, options: ExplorationOptions): void {
  if (typeof run !== "function") throw new InvalidOption("explore() takes a function to explore");
  assertKnownOptions(options, OPTIONS, "explore()");
  const { faults = [], depth = 1, expected = {} } = options;
  for (const fault of faults) assertOneOf(fault, EXPLORATION_FAULTS, "faults");
  assertInteger(depth, "depth", 1, 2);
  for (const [effect, times] of Object.entries(expected)) {
    assertInteger(times, `expected.${effect}`, 0, 1_000_000);
  }
}

interface Run {
  result: RunResult;
  points: number;
  /** Why the operation failed, where it did. */
  failure: unknown;
}

async function runOnce(run: ExploredRun, plan: Plan, options: ExplorationOptions): Promise<Run> {
  const world = new World(plan, options);
  const callers = new Callers(world, run);
  await world.open(() => callers.askUntilOver());
  await callers.ask(world.process());
  await callers.askUntilOver();
  await world.drained();
  if (options.background) await inBackground(world, options.background);
  const { effects, faults, trace } = world;
  const { ending, answers, failure } = callers;
  return { result: { ending, answers, effects, faults, trace }, points: world.points, failure };
}

/** Does what is left to do, by processes that take over from each other. */
async function inBackground(
  world: World,
  work: (process: ExploredProcess) => Promise<unknown>,
): Promise<void> {
  for (let round = 0; round < BACKGROUND_ROUNDS; round++) {
    const process = world.process();
    await world.drive(process, work(process));
    await world.clock.advance(LONG_MS);
  }
}

type Asked = { kind: "answered" | "held" | "again" };

/** The callers of one run: they ask again until the operation is over. */
class Callers {
  readonly answers = new Set<string>();
  ending: RunResult["ending"] = "stuck";
  failure: unknown;
  readonly #world: World;
  readonly #run: ExploredRun;
  readonly #values: unknown[] = [];

  constructor(world: World, run: ExploredRun) {
    this.#world = world;
    this.#run = run;
  }

  /** By processes that start one after the other; the leases of those before them lapse meanwhile. */
  async askUntilOver(): Promise<void> {
    let process = this.#world.process();
    for (let calls = 0; calls < CALLS_MAX; calls++) {
      if (process.isDead) process = this.#world.process();
      if (await this.ask(process)) return;
      await this.#world.clock.advance(LONG_MS / CALLS_MAX);
    }
  }

  /** @returns whether the operation is over */
  async ask(process: SimulatedProcess): Promise<boolean> {
    let asked: Asked = { kind: "again" };
    const answered = (async () => {
      try {
        asked = await this.#answered(await this.#run(process));
      } catch (error) {
        asked = this.#refused(error);
      }
    })();
    await this.#world.drive(process, answered);
    if (asked.kind === "again") return false;
    this.ending = asked.kind === "held" ? "held" : "completed";
    return true;
  }

  async #answered(value: unknown): Promise<Asked> {
    const answer = value instanceof Response ? await answerOf(value) : { value: valueIn(value) };
    if ("kind" in answer) return answer;
    if (!this.#values.some((other) => isDeepStrictEqual(other, answer.value))) {
      this.#values.push(answer.value);
      this.answers.add(JSON.stringify(answer.value) ?? String(answer.value));
    }
    return { kind: "answered" };
  }

  #refused(error: unknown): Asked {
    this.failure = error;
    switch (isSemelError(error) && error.code) {
      case "outcome-unknown":
      case "operation-void":
        return { kind: "held" };
      // The failure is the result.
      case "operation-failed":
        return { kind: "answered" };
      default:
        return { kind: "again" };
    }
  }
}

/** What `run()` answers is the value in it; whether it was replayed differs between callers. */
function valueIn(value: unknown): unknown {
  const isOutcome = typeof value === "object" && value !== null && "replayed" in value;
  return isOutcome && "value" in value ? value.value : value;
}

async function answerOf(response: Response): Promise<Asked | { value: unknown }> {
  const { status } = response;
  const body = await response.text();
  const isProblem = response.headers.get("content-type") === "application/problem+json";
  if (isProblem && body.includes('"outcome-unknown"')) return { kind: "held" };
  if (isProblem || status >= 500) return { kind: "again" };
  return { value: { status, body } };
}
