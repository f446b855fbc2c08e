// The side of an exploration with real processes that runs in the process that is killed: a store and
// effects whose calls are counted, and an end by SIGKILL at the one that the environment names.

import { appendFileSync, closeSync, existsSync, fsyncSync, openSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { InvalidOption } from "../../errors.ts";
import type { Store } from "../../store.ts";
import type { EffectOptions } from "./exploration.ts";
import { observedStore } from "./observed-store.ts";

/** The folder of one run, shared by the processes that follow each other in it. */
export const FOLDER_VARIABLE = "SEMEL_EXPLORE_FOLDER";
/** At which place the process is killed, from 1; each call has one before and one after it. */
export const KILL_VARIABLE = "SEMEL_EXPLORE_KILL_AT";

/** A line of the log of effects; one that a kill cut short is none. */
interface EffectLine {
  name: string;
  key: string | undefined;
  value: unknown;
}

/** What a script that is explored with `kill -9` does its work through. */
export interface KillableProcess {
  /** A folder of this run's own, for the store's files; it stays when the process dies. */
  readonly folder: string;
  /** Wraps the store: every call of it is a place to be killed at. */
  store(store: Store): Store;
  /** As in `explore()`. Effects are kept in the folder. */
  readonly effect: <Value = number>(name: string, options?: EffectOptions<Value>) => Promise<Value>;
}

/**
 * Joins an exploration: called once, in a script that `exploreProcesses()` runs.
 *
 * @throws {InvalidOption} when the script was not run by `exploreProcesses()`
 * @example
 * const { folder, store, effect } = killableProcess();
 * const records = sqliteStore(new DatabaseSync(`${folder}/records.db`));
 * await records.migrate();
 * const idempotency = new Idempotency({ store: store(records), lease: "200ms", onCrash: "rerun" });
 * await idempotency.run({ key: "order-42", wait: "10s" }, ({ step }) =>
 *   step("charge", ({ idempotencyKey }) => effect("charge", { idempotencyKey })),
 * );
 */
export function killableProcess(): KillableProcess {
  const folder = process.env[FOLDER_VARIABLE];
  if (folder === undefined) {
    throw new InvalidOption("killableProcess() belongs in a script that exploreProcesses() runs");
  }
  const killAt = Number(process.env[KILL_VARIABLE] ?? 0);
  let places = 0;
  const place = (what: string) => {
    places++;
    if (places !== killAt) return;
    appendFileSync(join(folder, KILLS_FILE), `${what}\n`);
    process.kill(process.pid, "SIGKILL");
    // The signal ends the process; nothing may go on until it does.
    for (;;) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1_000);
  };
  const around = async <Answer>(what: string, perform: () => Promise<Answer>) => {
    place(`before ${what}`);
    const answer = await perform();
    place(`after ${what}`);
    return answer;
  };
  return {
    folder,
    store: (store) => observedStore(store, around),
    effect: (name, options = {}) =>
      around(`effect "${name}"`, () => recordedEffect(folder, name, options)),
  };
}

async function recordedEffect<Value>(
  folder: string,
  name: string,
  { idempotencyKey, work }: EffectOptions<Value>,
): Promise<Value> {
  const earlier = effectsIn(folder).filter((effect) => effect.name === name);
  const known = earlier.find(({ key }) => key !== undefined && key === idempotencyKey);
  if (known) return known.value as Value;
  const value = work ? await work() : earlier.length + 1;
  append(folder, { name, key: idempotencyKey, value });
  return value as Value;
}

const EFFECTS_FILE = "effects.log";
const KILLS_FILE = "kills.log";

function append(folder: string, line: EffectLine): void {
  const file = openSync(join(folder, EFFECTS_FILE), "a");
  try {
    appendFileSync(file, `${JSON.stringify(line)}\n`);
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
}

/** What has happened in a run, in order. */
export function effectsIn(folder: string): EffectLine[] {
  return linesOf(folder, EFFECTS_FILE).map((line) => JSON.parse(line) as EffectLine);
}

/** Where processes of a run were killed. */
export function killsIn(folder: string): string[] {
  return linesOf(folder, KILLS_FILE);
}

function linesOf(folder: string, file: string): string[] {
  const path = join(folder, file);
  return existsSync(path) ? readFileSync(path, "utf8").split("\n").slice(0, -1) : [];
}
