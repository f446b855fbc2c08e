// The example in front of DBOS Transact, in processes of its own, on a real Postgres: killed in the middle of
// a workflow, it ends with one effect of each kind and one answer.

import { type ChildProcess, spawn } from "node:child_process";
import { randomBytes, randomUUID } from "node:crypto";
import { once } from "node:events";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { join } from "node:path";
import pg from "pg";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { postgresSource } from "../servers/postgres.ts";
import { findServer } from "../servers/server.ts";

const SCRIPT = join(import.meta.dirname, "../../../../examples/durable-engines/dbos.mjs");
const postgres = await findServer(postgresSource);
const database = `semel_dbos_${randomBytes(6).toString("hex")}`;
const bank = createServer(handle);
/** By path and key, in the order in which they came. */
const asked: string[] = [];
const answers = new Map<string, string>();
/** Told of a request before it is answered; a bank that is held up does not answer. */
let onRequest: (path: string) => Promise<void> = async () => {};
let service: ChildProcess | undefined;

async function handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
  const key = `${request.url} ${request.headers["idempotency-key"]}`;
  asked.push(key);
  request.resume();
  if (!answers.has(key)) answers.set(key, randomUUID());
  await onRequest(request.url!);
  response.end(answers.get(key));
}

async function administer(sql: string): Promise<void> {
  const client = new pg.Client({ connectionString: "url" in postgres ? postgres.url : "" });
  await client.connect();
  await client.query(sql);
  await client.end();
}

beforeAll(async () => {
  if ("reason" in postgres) return;
  await administer(`CREATE DATABASE ${database}`);
  bank.listen(0, "127.0.0.1");
  await once(bank, "listening");
});

afterAll(async () => {
  service?.kill("SIGKILL");
  bank.closeAllConnections();
  bank.close();
  if ("reason" in postgres) return;
  await administer(`DROP DATABASE ${database} WITH (FORCE)`);
  await postgres.close();
});

beforeEach((context) => {
  context.skip("reason" in postgres, "reason" in postgres ? postgres.reason : undefined);
  asked.length = 0;
  onRequest = async () => {};
});

/** Starts the example, and returns its address. */
async function start(): Promise<string> {
  const url = new URL("url" in postgres ? postgres.url : "");
  url.pathname = `/${database}`;
  const { port } = bank.address() as { port: number };
  service = spawn(process.execPath, ["--no-warnings", SCRIPT], {
    env: {
      ...process.env,
      DATABASE_URL: url.href,
      BANK_URL: `http://127.0.0.1:${port}`,
      PORT: "0",
    },
    stdio: ["ignore", "pipe", "pipe"],
  });
  let printed = "";
  for (const stream of [service.stdout!, service.stderr!]) {
    stream.setEncoding("utf8").on("data", (chunk: string) => {
      printed += chunk;
    });
  }
  for (;;) {
    const address = /http:\/\/127\.0\.0\.1:\d+/.exec(printed)?.[0];
    if (address) return address;
    if (service.exitCode !== null) throw new Error(`The example ended:\n${printed}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

async function kill(): Promise<void> {
  const ended = once(service!, "exit");
  service!.kill("SIGKILL");
  await ended;
}

async function book(address: string, key: string) {
  const response = await fetch(`${address}/rides`, {
    method: "POST",
    headers: { "idempotency-key": key, "x-account": "alice" },
    body: '{"to":"the moon"}',
  });
  return {
    status: response.status,
    replayed: response.headers.get("idempotent-replayed") === "true",
    booked: (await response.json()) as { workflow: string; booking: string; charge: string },
  };
}

test("a workflow is started once for each operation, and its result is replayed", async () => {
  const address = await start();
  const [one, other] = await Promise.all([book(address, "ride-1"), book(address, "ride-1")]);
  expect([one.status, other.status]).toEqual([201, 201]);
  expect(one.booked).toEqual(other.booked);
  expect(asked).toHaveLength(2);
  const another = await book(address, "ride-2");
  expect(another.booked.workflow).not.toBe(one.booked.workflow);
  await kill();
});

test.each(["/reservations", "/charges"])(
  "killed while it waits for %s, it goes on after its restart, with one effect and one answer",
  async (path) => {
    const key = `ride-killed${path}`;
    const first = await start();
    const reached = new Promise<void>((resolve) => {
      onRequest = (at) => {
        if (at !== path) return Promise.resolve();
        resolve();
        return new Promise(() => {});
      };
    });
    const lost = book(first, key).catch((error: unknown) => error);
    await reached;
    await kill();
    expect(await lost).toBeInstanceOf(Error);
    onRequest = async () => {};

    const second = await start();
    const { status, booked } = await book(second, key);
    expect(status).toBe(201);
    expect(await book(second, key)).toMatchObject({ status: 201, replayed: true, booked });
    const kinds = ["/reservations", "/charges"];
    for (const kind of kinds) {
      const keys = new Set(asked.filter((each) => each.startsWith(kind)));
      expect([...keys]).toEqual([`${kind} ${booked.workflow}${kind}`]);
    }
    await kill();
  },
  300_000,
);
