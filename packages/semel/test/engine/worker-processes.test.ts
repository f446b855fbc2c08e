// EN-7 and EN-8 over processes: three of them share 200 operations with an effect each, and one is killed
// in the middle.

import { type ChildProcess, fork } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { setTimeout as delay } from "node:timers/promises";
import { afterAll, afterEach, beforeEach, describe, expect, test } from "vitest";
import { Idempotency } from "../../src/engine/idempotency.ts";
import type { Store } from "../../src/store.ts";
import { redisStore } from "../../src/stores/redis.ts";
import { redisSource } from "../servers/redis.ts";
import { findServer } from "../servers/server.ts";
import { ioredisKind, wipe } from "../stores/redis-fixture.ts";
import { closeServers, mysqlBackend, pgBackend, sqliteBackends } from "./transaction-backends.ts";

const SCRIPT = join(import.meta.dirname, "worker-process.mjs");
const JOBS = 200;
const PROCESSES = 3;
/** How many a process has under way at once. */
const CONCURRENCY = 8;

interface Call {
  what: "work" | "report";
  job: number;
  key: string;
  process: number;
}

interface Place {
  address: { backend: string; url: string; table: string };
  store: Store;
  close(): Promise<void>;
}

const redis = await findServer(redisSource);
const redisPlace = {
  name: "Redis",
  reason: "reason" in redis ? redis.reason : undefined,
  open: async (): Promise<Place> => {
    const url = "url" in redis ? redis.url : "";
    const table = `semel-workers-${randomBytes(6).toString("hex")}:`;
    const { client, close } = await ioredisKind.open([Number(new URL(url).port || 6379)]);
    return {
      address: { backend: "redis", url, table },
      store: redisStore(client, { prefix: table, evictionPolicy: "warn" }),
      async close() {
        await wipe(client, table);
        await close();
      },
    };
  },
};
const sqlPlaces = [sqliteBackends[0]!, pgBackend, mysqlBackend].map((backend) => ({
  name: backend.name,
  reason: backend.reason,
  open: async (): Promise<Place> => {
    const stage = await backend.open();
    const client = await stage.connect();
    const close = async () => {
      await client.end();
      await stage.close();
    };
    return { address: stage.address, store: client.store, close };
  },
}));

afterAll(async () => {
  await closeServers();
  if ("url" in redis) await redis.close();
});

describe.each([...sqlPlaces, redisPlace])("three processes on $name", (found) => {
  let place: Place;
  let downstream: Server;
  let calls: Call[];
  let running: ChildProcess[];

  beforeEach(async (context) => {
    context.skip(found.reason !== undefined, found.reason);
    calls = [];
    running = [];
    place = await found.open();
    downstream = createServer(async (request, response) => {
      calls.push(JSON.parse(await text(request)));
      await delay(5);
      response.end("done");
    });
    // An idle connection that it closed would fail whoever was about to use it.
    downstream.keepAliveTimeout = 0;
    downstream.listen(0, "127.0.0.1");
    await once(downstream, "listening");
  });

  afterEach(async () => {
    for (const child of running) child.kill("SIGKILL");
    downstream?.closeAllConnections();
    downstream?.close();
    await place?.close();
  });

  async function until(holds: () => unknown): Promise<void> {
    while (!(await holds())) await delay(50);
  }

  test("EN-7, EN-8: one is killed; every job is done and reported once, the rest hand over and end", async () => {
    const { port } = downstream.address() as AddressInfo;
    const address = `http://127.0.0.1:${port}`;
    const settings = JSON.stringify({ ...place.address, downstream: address });
    const idempotency = new Idempotency({ store: place.store, sweep: false });
    const job = idempotency.operation("job", { handler: (_job: number) => {} });
    await Promise.all(
      Array.from({ length: JOBS }, (_, n) => job.start({ key: `job-${n}`, input: n })),
    );
    running = Array.from({ length: PROCESSES }, () => fork(SCRIPT, [settings]));
    await Promise.all(running.map((child) => once(child, "message")));
    for (const child of running) child.send("begin");
    await until(() => calls.filter(({ what }) => what === "work").length > JOBS / 4);
    const killed = running[0]!;
    killed.kill("SIGKILL");
    const reported = () =>
      new Set(calls.flatMap(({ what, job }) => (what === "report" ? job : [])));
    await until(() => reported().size === JOBS);
    await until(async () => (await idempotency.operations.stats()).waiting === 0);
    await until(async () => (await idempotency.effects.stats()).waiting === 0);
    const others = running.slice(1);
    for (const child of others) child.send("stop");
    await Promise.all(others.map((child) => child.exitCode ?? once(child, "exit")));

    for (const what of ["work", "report"] as const) {
      const ofKind = calls.filter((call) => call.what === what);
      for (let n = 0; n < JOBS; n++) {
        // One key each, by which a downstream tells a repetition.
        const keys = new Set(ofKind.filter((call) => call.job === n).map(({ key }) => key));
        expect(keys.size, `${what} ${n}`).toBe(1);
      }
      expect(new Set(ofKind.map(({ key }) => key)).size).toBe(JOBS);
      // What the killed one had begun is all that anybody began again.
      expect(ofKind.length - JOBS).toBeLessThanOrEqual(CONCURRENCY);
    }
    expect(new Set(calls.map((call) => call.process)).size).toBe(PROCESSES);
    for (const n of [0, JOBS - 1]) {
      expect((await job.run({ key: `job-${n}`, input: n })).value).toBe("done");
    }
  });
});
