// EN-6 to EN-8 on the example: processes that do rocket rides are killed at every call that they make of
// the store, of their database and of the provider, and once more in what follows. Each ride is charged
// once and has one receipt, or is refunded once and has none.

import { type ChildProcess, execFile, fork } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import type { Server } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { createPool } from "mysql2/promise";
import pg from "pg";
import { afterAll, afterEach, beforeEach, describe, expect, test } from "vitest";
import { mysqlStore } from "../../src/stores/mysql.ts";
import { postgresStore } from "../../src/stores/postgres.ts";
import { mysqlSource } from "../servers/mysql.ts";
import { postgresSource } from "../servers/postgres.ts";
import { redisSource } from "../servers/redis.ts";
import { findServer } from "../servers/server.ts";
import { ioredisKind, wipe } from "../stores/redis-fixture.ts";

const EXAMPLE = join(import.meta.dirname, "../../../../examples/rocket-rides");
const SCRIPT = join(import.meta.dirname, "rocket-rides-process.mjs");
const WHENS = ["before", "sent", "after"] as const;
const RIDES = {
  moon: { rider: "Ada", to: "Moon", amount: 500 },
  mars: { rider: "Grace", to: "Mars", amount: 500 },
} as const;

interface Stop {
  call: number;
  when: (typeof WHENS)[number];
}

interface World {
  name: string;
  input: (typeof RIDES)["moon" | "mars"];
  stop?: Stop | undefined;
}

interface End {
  state: "completed" | "failed";
  value?: { ride: string; charge: string; rocket: string };
  calls: number;
}

interface Ledger {
  path: string;
  key: string;
  ride: string;
  times: number;
}

interface Place {
  address: { backend: string; url: string; table: string };
  /** The states of rides by their ids, as the database has them. */
  rides(): Promise<Record<string, string>>;
  close(): Promise<void>;
}

interface Backend {
  name: string;
  reason: string | undefined;
  /** Of the calls, each so-manieth is one at which a process is killed. */
  every: number;
  open(): Promise<Place>;
}

const [postgres, mysql, redis] = await Promise.all([
  findServer(postgresSource),
  findServer(mysqlSource),
  findServer(redisSource),
]);
const urlOf = (found: typeof redis) => ("url" in found ? found.url : "");
const reasonOf = (found: typeof redis) => ("reason" in found ? found.reason : undefined);
const RIDES_TABLE =
  "(id varchar(100) PRIMARY KEY, state varchar(20) NOT NULL, charge varchar(100))";
const statesOf = (rows: readonly { id: string; state: string }[]) =>
  Object.fromEntries(rows.map(({ id, state }) => [id, state]));

const backends: Backend[] = [
  {
    name: "SQLite",
    reason: undefined,
    every: 2,
    async open() {
      const url = await mkdtemp(join(tmpdir(), "semel-rides-"));
      return {
        address: { backend: "sqlite", url, table: "semel" },
        rides: async () => ({}),
        close: () => rm(url, { recursive: true }),
      };
    },
  },
  {
    name: "Postgres",
    reason: reasonOf(postgres),
    every: 6,
    async open() {
      const url = urlOf(postgres);
      const table = `rides${randomBytes(6).toString("hex")}`;
      const pool = new pg.Pool({ connectionString: url, max: 2 });
      await postgresStore(pool, { table }).migrate();
      await pool.query(`CREATE TABLE ${table}_rides ${RIDES_TABLE}`);
      return {
        address: { backend: "pg", url, table },
        rides: async () => statesOf((await pool.query(`SELECT * FROM ${table}_rides`)).rows),
        async close() {
          const tables = ["rides", "records", "schema", "queue"].map((one) => `${table}_${one}`);
          await pool.query(`DROP TABLE IF EXISTS ${tables.join()}`);
          await pool.end();
        },
      };
    },
  },
  {
    name: "MySQL",
    reason: reasonOf(mysql),
    every: 6,
    async open() {
      const url = urlOf(mysql);
      const table = `rides${randomBytes(6).toString("hex")}`;
      const pool = createPool({ uri: url, connectionLimit: 2 });
      await mysqlStore(pool, { table }).migrate();
      await pool.query(`CREATE TABLE ${table}_rides ${RIDES_TABLE} ENGINE = InnoDB`);
      return {
        address: { backend: "mysql2", url, table },
        rides: async () => statesOf((await pool.query(`SELECT * FROM ${table}_rides`))[0] as never),
        async close() {
          const tables = ["rides", "records", "schema", "queue"].map((one) => `${table}_${one}`);
          await pool.query(`DROP TABLE IF EXISTS ${tables.join()}`);
          await pool.end();
        },
      };
    },
  },
  {
    name: "Redis",
    reason: reasonOf(redis),
    every: 6,
    async open() {
      const url = urlOf(redis);
      const table = `semel-rides-${randomBytes(6).toString("hex")}:`;
      return {
        address: { backend: "redis", url, table },
        rides: async () => ({}),
        async close() {
          const { client, close } = await ioredisKind.open([Number(new URL(url).port || 6379)]);
          await wipe(client, table);
          await close();
        },
      };
    },
  },
];

let kills = 0;

afterAll(async () => {
  for (const server of [postgres, mysql, redis]) if ("url" in server) await server.close?.();
  console.log(`${kills} rides were killed`);
});

describe.each(backends)("kill -9 at the calls of rocket rides on $name", (backend) => {
  let place: Place;
  let provider: Server;
  let address: string;
  let running: ChildProcess[] = [];

  beforeEach(async (context) => {
    context.skip(backend.reason !== undefined, backend.reason);
    place = await backend.open();
    const { paymentProvider } = await import(join(EXAMPLE, "provider.mjs"));
    provider = paymentProvider();
    provider.listen(0, "127.0.0.1");
    await once(provider, "listening");
    address = `http://127.0.0.1:${(provider.address() as AddressInfo).port}`;
  });

  afterEach(async () => {
    for (const child of running) child.kill("SIGKILL");
    running = [];
    provider?.closeAllConnections();
    provider?.close();
    await place?.close();
  });

  /** Has a process come to where each world is at its stop, or at its end. */
  async function perform(worlds: readonly World[]) {
    const settings = JSON.stringify({ ...place.address, provider: address });
    const child = fork(SCRIPT, [settings], { execArgv: ["--no-warnings"] });
    running.push(child);
    const failed = once(child, "exit").then(([code]) => {
      throw new Error(`The process ended with ${code}`);
    });
    failed.catch(() => {});
    child.send({ worlds });
    const reported = once(child, "message") as Promise<
      [{ stopped: string[]; done: Record<string, End> }]
    >;
    const [report] = await Promise.race([reported, failed]);
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

  test("each is charged once and has one receipt, or is refunded once and has none", async () => {
    const names = Object.keys(RIDES) as (keyof typeof RIDES)[];
    const measured = await perform(names.map((name) => ({ name, input: RIDES[name] })));
    await kill(measured.child);

    const worlds = names.flatMap((name) => {
      const { calls } = measured.done[name]!;
      const stops = WHENS.flatMap((when) =>
        Array.from({ length: calls }, (_, call) => ({ call: call + 1, when })),
      );
      // Others in another run.
      const offset = Math.floor(Math.random() * backend.every);
      const chosen = stops.filter((_, index) => index % backend.every === offset);
      return chosen.map(({ call, when }): World => {
        const stop = { call, when };
        return { name: `${name}-${when}-${call}`, input: RIDES[name], stop };
      });
    });
    const first = await perform(worlds);
    await kill(first.child);
    // Where it stops the second time is left to chance.
    const again = worlds.map((world): World => {
      const when = WHENS[Math.floor(Math.random() * WHENS.length)]!;
      return { ...world, stop: { call: 1 + Math.floor(Math.random() * 20), when } };
    });
    const second = await perform(again);
    await kill(second.child);
    kills += first.stopped.length + second.stopped.length;
    expect(first.stopped.length).toBeGreaterThan(worlds.length * 0.8);

    const { done, child } = await perform(worlds.map(({ name, input }) => ({ name, input })));
    const ledger = (await (await fetch(address)).json()) as Ledger[];
    const states = await place.rides();
    for (const { name, input } of worlds) {
      const entries = ledger.filter(({ ride }) => ride === name);
      const paths = entries.map(({ path }) => path).toSorted();
      const end = done[name]!;
      if (input.to === "Moon") {
        expect(paths, name).toEqual(["/charges", "/receipts", "/rockets"]);
        expect(end).toMatchObject({ state: "completed", value: { ride: name } });
      } else {
        expect(paths, name).toEqual(["/charges", "/refunds", "/rockets"]);
        expect(end).toMatchObject({ state: "failed" });
      }
      if (Object.keys(states).length > 0) {
        expect(states[name], name).toBe(input.to === "Moon" ? "confirmed" : "cancelled");
      }
    }
    await kill(child);
    console.log(
      `${backend.name}: ${first.stopped.length} + ${second.stopped.length} kills, ${ledger.length} entries`,
    );
  }, 300_000);
});

test("the example books rides, has a worker killed, and nothing is done twice", async () => {
  const file = join(EXAMPLE, "start.mjs");
  const { stdout } = await promisify(execFile)(process.execPath, ["--no-warnings", file]);
  const lines = stdout.split("\n").map((line) => line.trim());
  for (const line of [
    "Booked ride-moon: 202 started",
    "Booked ride-moon: 202 known already",
    "Booked ride-moon: 422 key-reused",
    "(killed)",
    "ride-moon is confirmed, paid by charge-1",
    "ride-mars is cancelled",
    "ride-dear is cancelled",
    "receipts for ride-moon, asked once",
  ]) {
    expect(lines).toContain(line);
  }
  const done = lines.slice(lines.indexOf("What the provider did:"));
  for (const [what, ride] of [
    ["charges", "moon"],
    ["charges", "mars"],
    ["refunds", "mars"],
    ["receipts", "moon"],
  ]) {
    expect(done.filter((line) => line.startsWith(`${what} for ride-${ride}`))).toHaveLength(1);
  }
  expect(done.some((line) => line.startsWith("receipts for ride-mars"))).toBe(false);
});
