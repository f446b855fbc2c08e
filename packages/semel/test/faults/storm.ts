// Callers that go on asking while something happens to their server, and an audit of what they were
// told.

import { expect } from "vitest";
import type { Idempotency } from "../../src/engine/idempotency.ts";
import { isSemelError } from "../../src/errors.ts";

/** How operations of a storm are run, and how their effects are counted. */
export interface Mode {
  readonly name: string;
  run(idempotency: Idempotency, key: string): Promise<{ value: unknown; replayed: boolean }>;
  /** How often the effect of a key is there. */
  effects(keys: readonly string[]): Promise<ReadonlyMap<string, number>>;
}

/** Effects outside of the database: they happen whatever becomes of the record. */
export function leaseMode(): Mode {
  const effects = new Map<string, number>();
  return {
    name: "run()",
    run: (idempotency, key) =>
      idempotency.run({ key }, () => {
        effects.set(key, (effects.get(key) ?? 0) + 1);
        return { by: key };
      }),
    effects: async () => effects,
  };
}

const CALLERS = 16;
const AUDITED_AT_ONCE = 50;

let storms = 0;

export class Storm {
  readonly acknowledged: string[] = [];
  /** When each of them was, by `performance.now()`. */
  readonly acknowledgedAt: number[] = [];
  readonly #failed: string[] = [];
  /** Errors that are not of Semel's. */
  readonly #foreign: unknown[] = [];
  readonly #mode: Mode;
  readonly #callers: Promise<void>[];
  readonly #name = `${process.pid}-${++storms}`;
  #asked = 0;
  #isOver = false;

  constructor(idempotency: Idempotency, mode: Mode) {
    this.#mode = mode;
    this.#callers = Array.from({ length: CALLERS }, () => this.#call(idempotency));
  }

  async #call(idempotency: Idempotency): Promise<void> {
    while (!this.#isOver) {
      const key = `${this.#name}-${++this.#asked}`;
      try {
        await this.#mode.run(idempotency, key);
        this.acknowledged.push(key);
        this.acknowledgedAt.push(performance.now());
      } catch (error) {
        this.#failed.push(key);
        if (!isSemelError(error)) this.#foreign.push(error);
        // As a caller who is told to come back: a server that is away fails at once.
        await new Promise((resolve) => setTimeout(resolve, 10));
      }
    }
  }

  /** Resolves when so many more operations have been acknowledged. */
  async more(count: number): Promise<void> {
    const wanted = this.acknowledged.length + count;
    await expect
      .poll(() => this.acknowledged.length, { timeout: 60_000 })
      .toBeGreaterThanOrEqual(wanted);
  }

  /** Resolves when newcomers have been told, each, that the store cannot be asked. */
  async refusesNewcomers(idempotency: Idempotency): Promise<void> {
    const keys = Array.from({ length: CALLERS }, (_, n) => `${this.#name}-newcomer-${n}`);
    const refused = keys.map((key) =>
      expect(this.#mode.run(idempotency, key)).rejects.toMatchObject({ code: "store-unavailable" }),
    );
    await Promise.all(refused);
    this.#failed.push(...keys);
  }

  async end(): Promise<void> {
    this.#isOver = true;
    await Promise.all(this.#callers);
  }

  /**
   * Asks for every key again, from another process's point of view: what was acknowledged is replayed,
   * and nothing has two effects.
   *
   * @param isOwnError tells a handler's own error from one that should have been Semel's
   */
  async audit(
    witness: Idempotency,
    isOwnError: (error: unknown) => boolean = () => false,
  ): Promise<Record<string, number>> {
    expect(this.#foreign.filter((error) => !isOwnError(error))).toEqual([]);
    const answers: Record<string, number> = {};
    const lost: string[] = [];
    const isAcknowledged = new Set(this.acknowledged);
    const keys = [...this.acknowledged, ...this.#failed];
    const ask = async (key: string) => {
      const answer = await this.#mode.run(witness, key).then(
        ({ value, replayed }) => {
          expect(value).toEqual({ by: key });
          return replayed ? "replay" : "ran";
        },
        (error: unknown) => (isSemelError(error) ? error.code : String(error)),
      );
      if (isAcknowledged.has(key) && answer !== "replay") lost.push(`${key}: ${answer}`);
      const kind = isAcknowledged.has(key) ? "acknowledged" : "failed";
      answers[`${kind}, then ${answer}`] = (answers[`${kind}, then ${answer}`] ?? 0) + 1;
    };
    for (let at = 0; at < keys.length; at += AUDITED_AT_ONCE) {
      await Promise.all(keys.slice(at, at + AUDITED_AT_ONCE).map(ask));
    }
    expect(lost).toEqual([]);
    const effects = await this.#mode.effects(keys);
    expect(keys.filter((key) => (effects.get(key) ?? 0) > 1)).toEqual([]);
    expect(this.acknowledged.filter((key) => effects.get(key) !== 1)).toEqual([]);
    return answers;
  }
}
