// Explores an operation with real processes: each run kills one with SIGKILL at another place, and lets
// others finish what it began (TK-1).

import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { InvalidOption } from "../../errors.ts";
import { assertInteger, assertKnownOptions } from "../../options.ts";
import { type ExplorationReport, Findings, type RunResult } from "./exploration.ts";
import { effectsIn, FOLDER_VARIABLE, KILL_VARIABLE, killsIn } from "./killable.ts";

export interface ProcessExplorationOptions {
  /** How often these effects have to have happened. @default all as often as when nothing is killed */
  expected?: Readonly<Record<string, number>>;
  /** Arguments of the script. */
  arguments?: readonly string[];
  /** How many runs go on at once. @default 2 */
  concurrency?: number;
  /** Told after every run, for progress. */
  onRun?: (done: number) => void;
}

/** A script that does not end without being killed is given up. */
const RECOVERIES_MAX = 5;
/** Places after which the script seems to have no end. */
const PLACES_MAX = 10_000;

interface Ended {
  isKilled: boolean;
  code: number | null;
  output: string;
}

/**
 * Explores a script of Node's that does an operation through `killableProcess()`: runs it again and again,
 * killed before and after each call of the store and each effect in turn, and each time lets it run
 * once more to its end. It exits with 0 when the operation has completed (it may have to wait until the
 * lease of the one before has lapsed: keep it short), and with 3 when it is held.
 *
 * @param script the path of the script
 * @returns what happened twice, or not at all
 * @throws {InvalidOption}; when the script fails although nothing is killed
 * @example
 * const report = await exploreProcesses("./pay.mjs");
 * assert.ok(report.ok, String(report));
 */
export async function exploreProcesses(
  script: string,
  options: ProcessExplorationOptions = {},
): Promise<ExplorationReport> {
  assertKnownOptions(
    options,
    ["expected", "arguments", "concurrency", "onRun"],
    "exploreProcesses()",
  );
  const { concurrency = 2, expected, onRun } = options;
  assertInteger(concurrency, "concurrency", 1, 64);
  const command = [script, ...(options.arguments ?? [])];
  const calm = await runKilledAt(0, command);
  if (calm.ending !== "completed") {
    throw new InvalidOption(
      `The script fails although nothing is killed:\n${calm.trace.join("\n")}`,
    );
  }
  const findings = new Findings(calm.effects, expected);
  findings.add(calm);
  let next = 1;
  let last = Number.POSITIVE_INFINITY;
  let runs = 1;
  const explorer = async () => {
    for (let place = next++; place < last && place <= PLACES_MAX; place = next++) {
      const result = await runKilledAt(place, command);
      // It was over before it came so far.
      if (result.faults.length === 0) last = Math.min(last, place);
      else {
        findings.add(result);
        onRun?.(++runs);
      }
    }
  };
  await Promise.all(Array.from({ length: concurrency }, explorer));
  return findings.report(Math.min(last - 1, PLACES_MAX));
}

async function runKilledAt(place: number, command: readonly string[]): Promise<RunResult> {
  const folder = mkdtempSync(join(tmpdir(), "semel-explore-"));
  try {
    const trace: string[] = [];
    let ended = await started(command, folder, place);
    for (let tries = 0; tries < RECOVERIES_MAX && !isOver(ended); tries++) {
      trace.push(ended.isKilled ? "killed" : `exit ${ended.code}: ${ended.output.trim()}`);
      ended = await started(command, folder, 0);
    }
    trace.push(isOver(ended) ? `exit ${ended.code}` : `gave up: ${ended.output.trim()}`);
    const effects = new Map<string, number>();
    for (const { name } of effectsIn(folder)) effects.set(name, (effects.get(name) ?? 0) + 1);
    const kills = killsIn(folder);
    const faults = kills.map((point) => ({ point, fault: faultAt(point) }));
    const happened = effectsIn(folder).map(({ name }) => `effect "${name}"`);
    return {
      ending: ended.code === 0 ? "completed" : ended.code === HELD ? "held" : "stuck",
      effects,
      answers: new Set(),
      faults,
      trace: [...kills.map((point) => `✗ SIGKILL ${point}`), ...trace, ...happened],
    };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

const HELD = 3;

function isOver({ isKilled, code }: Ended): boolean {
  return !isKilled && (code === 0 || code === HELD);
}

function faultAt(point: string): "crash-before" | "crash-after" {
  return point.startsWith("before") ? "crash-before" : "crash-after";
}

function started(command: readonly string[], folder: string, place: number): Promise<Ended> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, ["--no-warnings", ...command], {
      stdio: ["ignore", "pipe", "pipe"],
      env: { ...process.env, [FOLDER_VARIABLE]: folder, [KILL_VARIABLE]: String(place) },
    });
    let output = "";
    const collect = (chunk: Buffer) => {
      output = `${output}${chunk}`.slice(-4_000);
    };
    child.stdout.on("data", collect);
    child.stderr.on("data", collect);
    child.once("error", reject);
    child.once("close", (code, signal) => {
      resolve({ isKilled: signal === "SIGKILL", code, output });
    });
  });
}
