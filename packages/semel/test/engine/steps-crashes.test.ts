// EN-6: real processes that are killed at every point of an operation with three steps, twice, and the
// processes that finish what they began. What a step does is counted by whom it asks to do it.

import { type ChildProcess, fork } from "node:child_process";
import { randomBytes, randomUUID } from "node:crypto";
import { once } from "node:events";
import { createServer, type Server } from "node:http";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { afterAll, afterEach, beforeEach, describe, expect, test } from "vitest";
import { redisSource } from "../servers/redis.ts";
import { findServer } from "../servers/server.ts";
import { ioredisKind, wipe } from "../stores/redis-fixture.ts";
import { closeServers, mysqlBackend, pgBackend, sqliteBackends } from "./transaction-backends.ts";

const SCRIPT = join(import.meta.dirname, "steps-process.mjs");
const STEPS = ["reserve", "charge", "ship"];
/** In the order in which an operation passes them. */
const POINTS = [
  ...STEPS.flatMap((step) =>
    ["before", "during", "after", "saving", "saved"].map((point) => `${point} ${step}`),
  ),
  ...["completing", "sent", "completed"],
];
/** For each point, in each store. */
const OPERATIONS_PER_POINT = 4;

/** A value of a step: of the execution that made it, and of whom that asked. */
interface Value {
  nonce: string;
  answer: string;
}

/** What a step asked for. */
interface Call {
  key: string;
  name: string;
  idempotencyKey: string;
  nonce: string;
  /** What the steps before it had returned. */
  seen: Value[];
}

type Ended = Record<string, { value: Value[]; replayed: boolean }>;

interface Place {
  address: { backend: string; url: string; table: string };
  close(): Promise<void>;
}

const redis = await findServer(redisSource);
const redisPlace = {
  name: "Redis",
  reason: "reason" in redis ? redis.reason : undefined,
  open: async (): Promise<Place> => {
    const url = "url" in redis ? redis.url : "";
    const table = `semel-steps-${randomBytes(6).toString("hex")}:`;
    return {
      address: { backend: "redis", url, table },
      async close() {
        const { client, close } = await ioredisKind.open([Number(new URL(url).port || 6379)]);
        await wipe(client, table);
        await close();
      },
    };
  },
};
const places = [sqliteBackends[0]!, pgBackend, mysqlBackend, redisPlace];

let kills = 0;

afterAll(async () => {
  await closeServers();
  if ("url" in redis) await redis.close();
  console.log(`${kills} operations were killed at ${POINTS.length} points`);
});

/** Does what it is asked for once for each key, and gives the same answer again. */
class Downstream {
  readonly calls: Call[] = [];
  readonly effects = new Map<string, string>();
  readonly #server: Server = createServer(async (request, response) => {
    const call = JSON.parse(await text(request)) as Call;
    this.calls.push(call);
    const answer = this.effects.get(call.idempotencyKey) ?? randomUUID();
    this.effects.set(call.idempotencyKey, answer);
    response.end(answer);
  });

  async open(): Promise<string> {
    // An idle connection that it closed would fail whoever was about to use it.
    this.#server.keepAliveTimeout = 0;
    this.#server.listen(0, "127.0.0.1");
    await once(this.#server, "listening");
    return `http://127.0.0.1:${(this.#server.address() as { port: number }).port}`;
  }

  of(key: string, step: string): Call[] {
    return this.calls.filter((call) => call.key === key && call.name === step);
  }

  close(): void {
    this.#server.closeAllConnections();
    this.#server.close();
  }
}

describe.each(places)("kill -9 between, before and in steps on $name", (place) => {
  let stage: Place;
  let downstream: Downstream;
  let address: string;
  let running: ChildProcess[];

  beforeEach(async (context) => {
    context.skip(place.reason !== undefined, place.reason);
    running = [];
    stage = await place.open();
    downstream = new Downstream();
    address = await downstream.open();
  });

  afterEach(async () => {
    for (const child of running) child.kill("SIGKILL");
    downstream.close();
    await stage.close();
  });

  /** Runs operations in a process of their own until each has ended, or is where it is to stop. */
  async function perform(operations: readonly { key: string; stop?: string | undefined }[]) {
    const settings = JSON.stringify({ ...stage.address, downstream: address });
    const child = fork(SCRIPT, [settings], { execArgv: ["--no-warnings"] });
    running.push(child);
    child.send({ operations });
    const [report] = (await once(child, "message")) as [{ stopped: string[]; ended: Ended }];
    return { child, ...report };
  }

  async function kill(child: ChildProcess): Promise<void> {
    const exited = once(child, "exit");
    const gone = once(child, "message");
    child.send({ go: true });
    await gone;
    child.kill("SIGKILL");
    expect(await exited).toEqual([null, "SIGKILL"]);
  }

  test("every step has one effect, and what was saved is neither lost nor run again", async () => {
    const keys = POINTS.flatMap((_, at) =>
      Array.from({ length: OPERATIONS_PER_POINT }, (_, nth) => ({ key: `${at}.${nth}`, at })),
    );
    /** How often each step had been called by when it was surely saved. */
    const savedAfter = new Map<string, number>();
    async function killAt(operations: readonly { key: string; at: number }[]): Promise<number> {
      const asked = operations.map(({ key, at }) => ({ key, stop: POINTS[at] }));
      const { child, stopped } = await perform(asked);
      for (const { key, at } of operations.filter(({ key }) => stopped.includes(key))) {
        for (const step of STEPS.filter((step) => POINTS.indexOf(`saved ${step}`) <= at)) {
          const name = `${key} ${step}`;
          if (!savedAfter.has(name)) savedAfter.set(name, downstream.of(key, step).length);
        }
      }
      await kill(child);
      return stopped.length;
    }

    const first = await killAt(keys);
    expect(first).toBe(keys.length);
    const second = await killAt(keys.flatMap(killedAgain));
    kills += first + second;

    const operations = keys.map(({ key }) => ({ key }));
    const { ended } = await perform(operations);
    for (const { key } of keys) {
      const { value } = ended[key]!;
      for (const [index, step] of STEPS.entries()) {
        const calls = downstream.of(key, step);
        expect(new Set(calls.map(({ idempotencyKey }) => idempotencyKey)).size).toBe(1);
        expect(value[index]).toEqual({
          nonce: calls.at(-1)!.nonce,
          answer: downstream.effects.get(calls[0]!.idempotencyKey),
        });
        for (const { seen } of calls) expect(seen).toEqual(value.slice(0, index));
        const before = savedAfter.get(`${key} ${step}`) ?? calls.length;
        expect(calls, `${key} ${step} ran after it was saved`).toHaveLength(before);
      }
    }
    expect(downstream.effects.size).toBe(keys.length * STEPS.length);

    const calls = downstream.calls.length;
    const { ended: replays } = await perform(operations);
    for (const { key } of keys) {
      expect(replays[key]).toEqual({ value: ended[key]!.value, replayed: true });
    }
    expect(downstream.calls).toHaveLength(calls);
    console.log(
      `${place.name}: ${first} + ${second} kills, ${calls} calls, ${downstream.effects.size} effects`,
    );
  });
});

/** Where an operation that was killed at a point is killed once more: at one that it surely reaches. */
function killedAgain({ key, at }: { key: string; at: number }): { key: string; at: number }[] {
  const point = POINTS[at]!;
  if (point === "sent" || point === "completed") return [];
  // A save that was under way may have been made, and the step then is not run again.
  const from = point.startsWith("saving") ? at + 1 : at;
  const later = POINTS.length - from;
  return [{ key, at: from + Math.floor(Math.random() * later) }];
}
