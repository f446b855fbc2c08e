// Real processes on one SQLite file, killed, stopped and continued at the worst moments. The effect
// of an operation is a line in a file, so a second one cannot hide.

import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as delay } from "node:timers/promises";
import { afterEach, beforeEach, expect, test } from "vitest";
import { signalTree } from "../servers/server.ts";

interface Service {
  port: number;
  process: ChildProcess;
}

interface Answer {
  status: number;
  code: string | undefined;
  replayed: boolean;
  body: string;
}

let folder: string;
let running: ChildProcess[];
const path = (name: string) => join(folder, name);

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "semel-crash-"));
  running = [];
});

afterEach(() => {
  for (const child of running) child.kill("SIGKILL");
  rmSync(folder, { recursive: true, force: true });
});

async function start(options: object): Promise<Service> {
  const settings = {
    database: path("semel.db"),
    effects: path("effects"),
    gate: path("gate"),
    options: { lease: "300ms", cache: false, ...options },
  };
  const script = join(import.meta.dirname, "service.mjs");
  const child = spawn(process.execPath, ["--no-warnings", script, JSON.stringify(settings)], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  running.push(child);
  for await (const line of createInterface({ input: child.stdout! })) {
    return { port: Number(line), process: child };
  }
  throw new Error("the service ended before it listened");
}

async function pay(service: Service, key: string, amount = 100): Promise<Answer> {
  const response = await fetch(`http://127.0.0.1:${service.port}/payments`, {
    method: "POST",
    headers: { "idempotency-key": key, "content-type": "application/json" },
    body: JSON.stringify({ amount }),
  });
  const body = await response.text();
  const isProblem = response.headers.get("content-type") === "application/problem+json";
  return {
    status: response.status,
    code: isProblem ? JSON.parse(body).code : undefined,
    replayed: response.headers.get("idempotent-replayed") === "true",
    body,
  };
}

/** Asks until the answer is no longer that the first attempt runs. */
async function payUntilKnown(service: Service, key: string): Promise<Answer> {
  for (;;) {
    const answer = await pay(service, key);
    if (answer.code !== "operation-in-progress") return answer;
    await delay(20);
  }
}

function effectsOf(key: string): number {
  if (!existsSync(path("effects"))) return 0;
  const lines = readFileSync(path("effects"), "utf8").split("\n");
  return lines.filter((line) => line.startsWith(`${key} `)).length;
}

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await delay(5);
}

const closeGate = () => writeFileSync(path("gate"), "");
const openGate = () => rmSync(path("gate"));

test("50 duplicates over two processes have one effect and one answer", async () => {
  const services = await Promise.all([start({ wait: "10s" }), start({ wait: "10s" })]);
  const answers = await Promise.all(
    Array.from({ length: 50 }, (_, index) => pay(services[index % 2]!, "k")),
  );
  expect(new Set(answers.map(({ body }) => body)).size).toBe(1);
  expect(answers.filter(({ replayed }) => !replayed)).toHaveLength(1);
  expect(effectsOf("k")).toBe(1);
});

test("SM-24: kill -9 in the middle of a handler leaves the operation held, and nothing runs again", async () => {
  closeGate();
  const [first, second] = [await start({}), await start({})];
  const lost = pay(first, "k").catch((error: unknown) => error);
  await until(() => effectsOf("k") === 1);
  expect((await pay(second, "k")).code).toBe("operation-in-progress");
  first.process.kill("SIGKILL");
  expect(await lost).toBeInstanceOf(Error);
  openGate();
  const answer = await payUntilKnown(second, "k");
  expect(answer).toMatchObject({ status: 409, code: "outcome-unknown" });
  expect((await pay(second, "k", 999)).code).toBe("key-reused");
  expect(effectsOf("k")).toBe(1);

  // SM-12: a person found out that it was not applied.
  const resolved = await fetch(`http://127.0.0.1:${second.port}/resolve`, {
    headers: { "x-key": "k" },
  });
  expect(await resolved.text()).toBe("resolved");
  expect(await pay(second, "k")).toMatchObject({ status: 201, replayed: false });
  expect(await pay(second, "k")).toMatchObject({ status: 201, replayed: true });
  expect(effectsOf("k")).toBe(2);
});

test("SM-12: an operation that was found to be applied replays the response that it is given", async () => {
  closeGate();
  const [first, second] = [await start({}), await start({})];
  const lost = pay(first, "k").catch((error: unknown) => error);
  await until(() => effectsOf("k") === 1);
  first.process.kill("SIGKILL");
  await lost;
  openGate();
  expect((await payUntilKnown(second, "k")).code).toBe("outcome-unknown");
  const resolved = await fetch(`http://127.0.0.1:${second.port}/resolve`, {
    headers: { "x-key": "k", "x-result": '{"paid":100}' },
  });
  expect(await resolved.text()).toBe("resolved");
  const answer = await pay(second, "k");
  expect(answer).toMatchObject({ status: 201, replayed: true, body: '{"paid":100}' });
  expect(effectsOf("k")).toBe(1);
});

test("SM-4: after kill -9, `rerun` runs it again, once, as its policy says", async () => {
  closeGate();
  const [first, second] = [await start({ onCrash: "rerun" }), await start({ onCrash: "rerun" })];
  const lost = pay(first, "k").catch((error: unknown) => error);
  await until(() => effectsOf("k") === 1);
  first.process.kill("SIGKILL");
  await lost;
  openGate();
  const answers = await Promise.all(Array.from({ length: 10 }, () => payUntilKnown(second, "k")));
  expect(new Set(answers.map(({ body }) => body)).size).toBe(1);
  expect(effectsOf("k")).toBe(2);
});

test("SM-20: a process that was stopped past its lease answers with its successor's result", async () => {
  closeGate();
  const [first, second] = [await start({ onCrash: "rerun" }), await start({ onCrash: "rerun" })];
  const zombie = pay(first, "k");
  await until(() => effectsOf("k") === 1);
  await signalTree(first.process.pid!, "SIGSTOP");
  const successor = payUntilKnown(second, "k");
  await until(() => effectsOf("k") === 2);
  openGate();
  const answer = await successor;
  expect(answer).toMatchObject({ status: 201, replayed: false });
  first.process.kill("SIGCONT");
  expect(await zombie).toMatchObject({ status: 201, replayed: true, body: answer.body });
  expect(effectsOf("k")).toBe(2);
});

test("SM-17: under `hold`, a process that was stopped past its lease can no longer complete", async () => {
  closeGate();
  const [first, second] = [await start({}), await start({})];
  const zombie = pay(first, "k");
  await until(() => effectsOf("k") === 1);
  await signalTree(first.process.pid!, "SIGSTOP");
  expect((await payUntilKnown(second, "k")).code).toBe("outcome-unknown");
  openGate();
  first.process.kill("SIGCONT");
  expect(await zombie).toMatchObject({ status: 409, code: "outcome-unknown" });
  expect((await pay(second, "k")).code).toBe("outcome-unknown");
  expect(effectsOf("k")).toBe(1);
});

test("SM-17: a lease that lapsed and that nobody took may still complete", async () => {
  closeGate();
  const first = await start({});
  const slow = pay(first, "k");
  await until(() => effectsOf("k") === 1);
  await signalTree(first.process.pid!, "SIGSTOP");
  await delay(600);
  openGate();
  first.process.kill("SIGCONT");
  expect(await slow).toMatchObject({ status: 201, replayed: false });
  expect(await pay(first, "k")).toMatchObject({ status: 201, replayed: true });
  expect(effectsOf("k")).toBe(1);
});

test("SM-23: a client that vanishes does not cancel its payment", async () => {
  closeGate();
  const service = await start({});
  const socket = connect(service.port, "127.0.0.1");
  const body = '{"amount":100}';
  socket.write(
    `POST /payments HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nIdempotency-Key: k\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
  );
  await until(() => effectsOf("k") === 1);
  socket.destroy();
  openGate();
  expect(await payUntilKnown(service, "k")).toMatchObject({ status: 201, replayed: true });
  expect(effectsOf("k")).toBe(1);
});

test("40 kills at moments that nobody chose never give a second effect under `hold`", async () => {
  let service = await start({});
  const outcomes = { paid: 0, held: 0 };
  for (let round = 0; round < 40; round++) {
    const key = `k${round}`;
    const lost = pay(service, key).catch(() => undefined);
    // From before the request arrives to after its answer left.
    await delay((round % 10) * 1.5);
    service.process.kill("SIGKILL");
    await lost;
    service = await start({});
    const answer = await payUntilKnown(service, key);
    if (answer.status === 201) outcomes.paid++;
    else {
      expect(answer.code).toBe("outcome-unknown");
      outcomes.held++;
    }
    expect(effectsOf(key)).toBeLessThanOrEqual(1);
  }
  expect(outcomes.paid + outcomes.held).toBe(40);
  console.log(`40 kills: ${outcomes.paid} paid, ${outcomes.held} held, no second effect`);
});
