// One process, many keyed requests by every adapter: new ones, replays, mismatches, failures, and
// clients that leave. Afterwards it must hold no more than before.

import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { Agent, request } from "node:http";
import { connect } from "node:net";
import { join } from "node:path";
import { afterEach, expect, test } from "vitest";
import { send } from "../../src/testing/framework-suite/index.ts";

interface Measured {
  heapBytes: number;
  resources: Record<string, number>;
  states: Record<string, number>;
}

let service: ChildProcess | undefined;
afterEach(() => service?.kill("SIGKILL"));

/** Starts the service. */
async function start() {
  const warnings: string[] = [];
  const script = join(import.meta.dirname, "service.mjs");
  const child = fork(script, [], {
    execArgv: ["--expose-gc"],
    stdio: ["ignore", "ignore", "ignore", "ipc"],
  });
  service = child;
  const [{ ports }] = (await once(child, "message")) as [{ ports: Record<string, number> }];
  let measured: (measured: Measured) => void = () => {};
  child.on("message", (message: { measured?: Measured; warning?: string }) => {
    if (message.measured) measured(message.measured);
    if (message.warning) warnings.push(message.warning);
  });
  const measure = () =>
    new Promise<Measured>((resolve) => {
      measured = resolve;
      child.send("measure");
    });
  return { ports, measure, warnings };
}

/** What the n-th request of an adapter is. */
const KINDS = [
  "new",
  "replayed",
  "mismatch",
  "stream",
  "fail",
  "leaves",
  "pipelined",
  "plain",
] as const;

async function sendOne(port: number, agent: Agent, n: number): Promise<void> {
  const kind = KINDS[n % KINDS.length]!;
  const key = (nth: number) => `key-${port}-${nth}`;
  const post = (path: string, nth: number, body: string) =>
    send(port, { path, agent, body, headers: { "idempotency-key": key(nth) } });
  switch (kind) {
    case "new":
      return void (await post("/", n, "payload"));
    case "replayed":
      return void (await post("/", n - 1, "payload"));
    case "mismatch":
      return void (await post("/", n - 2, "another payload"));
    case "stream":
      return void (await post("/stream", n, ""));
    case "fail":
      return void (await post("/fail", n, ""));
    case "leaves":
      return leave(port, key(n));
    case "pipelined":
      return leavePipelined(port, key(n));
    case "plain":
      return void (await send(port, { path: "/", agent, body: "without a key" }));
  }
}

/** Begins a stream, and leaves as soon as its head has come. */
async function leave(port: number, key: string): Promise<void> {
  const options = {
    port,
    host: "127.0.0.1",
    method: "POST",
    path: "/stream",
    agent: false,
  } as const;
  const sent = request({ ...options, headers: { "idempotency-key": key } });
  sent.on("error", () => {});
  const closed = once(sent, "close");
  sent.on("response", (response) => {
    response.on("error", () => {});
    sent.destroy();
  });
  sent.end();
  await closed;
}

/** Sends three requests at once, and leaves when the first answer begins. */
async function leavePipelined(port: number, key: string): Promise<void> {
  const socket = connect(port, "127.0.0.1");
  socket.on("error", () => {});
  const closed = once(socket, "close");
  const post = (n: number) =>
    `POST /stream HTTP/1.1\r\nHost: a\r\nIdempotency-Key: ${key}-${n}\r\nContent-Length: 0\r\n\r\n`;
  socket.write(post(1) + post(2) + post(3));
  socket.once("data", () => socket.resetAndDestroy());
  await closed;
}

const AT_ONCE = 8;

/** Sends as many requests to each adapter. */
async function load(ports: Record<string, number>, from: number, count: number): Promise<void> {
  for (const port of Object.values(ports)) {
    const agent = new Agent({ keepAlive: true, maxSockets: AT_ONCE });
    let next = from;
    const work = async () => {
      while (next < from + count) await sendOne(port, agent, next++);
    };
    await Promise.all(Array.from({ length: AT_ONCE }, work));
    agent.destroy();
  }
}

const ADAPTERS = 6;
const WARMING = 1_000;
const REQUESTS = Math.ceil(20_000 / ADAPTERS);
/** Less than the smallest object for every request. */
const GROWTH_BYTES_MAX = REQUESTS * ADAPTERS * 64;

test("20,000 keyed requests leave no memory, records, timers or connections behind", async () => {
  const { ports, measure, warnings } = await start();
  expect(Object.keys(ports)).toHaveLength(ADAPTERS);
  await load(ports, 0, WARMING);
  const before = await measure();
  await load(ports, WARMING, REQUESTS);
  const after = await measure();
  expect(after.states).toEqual(before.states);
  expect(after.resources).toEqual(before.resources);
  expect(warnings).toEqual([]);
  expect(after.heapBytes - before.heapBytes).toBeLessThan(GROWTH_BYTES_MAX);
}, 300_000);
