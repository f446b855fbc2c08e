// A gateway that is told to stop ends what runs, and nothing else begins.

import { once } from "node:events";
import { join } from "node:path";
import { afterEach, expect, test } from "vitest";
import { cleanUp, folder, gate, gateway, upstream } from "../processes.ts";
import { message, rawConnection } from "../raw-http.ts";

afterEach(cleanUp);

const PAY = message(
  "POST / HTTP/1.1",
  ...["Host: a", "Authorization: x", "Idempotency-Key: k", "Content-Length: 0"],
);

/** An upstream that answers when told to. */
async function waiting() {
  const reached = gate();
  const answer = gate();
  const behind = await upstream((request, response) => {
    if (request.method === "GET") return void response.end("here");
    reached.open();
    void answer.opened.then(() => response.end("charged"));
  });
  return { ...behind, reached, answer };
}

/** Connects until that is refused: the listening socket closes an instant after the idle ones. */
async function refusal(port: number): Promise<string> {
  for (;;) {
    try {
      await (await rawConnection(port)).closed();
    } catch (error) {
      return (error as NodeJS.ErrnoException).code ?? "unknown";
    }
  }
}

for (const signal of ["SIGTERM", "SIGINT"] as const) {
  test(`${signal} lets a running request end, and idle connections go`, async () => {
    const behind = await waiting();
    const { port, child, logged, end } = await gateway(behind.url);
    const idle = await rawConnection(port);
    idle.write(message("GET / HTTP/1.1", "Host: a"));
    await idle.until("here");
    const client = await rawConnection(port);
    client.write(PAY);
    await behind.reached.opened;
    const ended = end(signal);
    await logged(({ event }) => event === "stopping");
    await idle.closed();
    expect(await refusal(port)).toBe("ECONNREFUSED");
    expect(child.exitCode).toBe(null);
    behind.answer.open();
    const text = await client.closed();
    expect(text).toMatch(/^HTTP\/1\.1 200 .*connection: close.*charged/is);
    expect(text).toContain("idempotency-status: executed");
    expect(await ended).toBe(0);
    expect((await logged(({ event }) => event === "stopped"))["cut"]).toBe(0);
  });
}

test("an operation whose client has left is waited for, and its result is there afterwards", async () => {
  const store = `sqlite:${join(await folder(), "semel.db")}`;
  const behind = await waiting();
  const first = await gateway(behind.url, "--store", store);
  const client = await rawConnection(first.port);
  client.write(PAY);
  await behind.reached.opened;
  client.socket.destroy();
  await once(client.socket, "close");
  const ended = first.end("SIGTERM");
  await first.logged(({ event }) => event === "stopping");
  behind.answer.open();
  expect(await ended).toBe(0);

  const second = await gateway(behind.url, "--store", store);
  const again = await rawConnection(second.port);
  again.write(PAY);
  expect(await again.until("charged")).toContain("replayed");
});

test("requests that wait for their turn when their client leaves end with it", async () => {
  const reached = gate();
  const cut = gate();
  const behind = await upstream((request, response) => {
    if (request.url === "/first") reached.open();
    if (request.url === "/small") response.end("small");
    // More than anybody would keep for a client that does not read.
    if (request.url === "/large") response.once("close", cut.open).write(Buffer.alloc(2 ** 24));
  });
  const { port, logged, log, end } = await gateway(behind.url, "--drain", "1h");
  const client = await rawConnection(port);
  const get = (path: string) => message(`GET ${path} HTTP/1.1`, "Host: a");
  client.write(get("/first") + get("/small") + get("/large") + get("/-/healthz"));
  await reached.opened;
  client.socket.destroy();
  await cut.opened;
  await logged(({ path }) => path === "/large");
  const requests = log.filter(({ event }) => event === "request");
  // None of them was answered, although the service had answered one.
  const told = requests.map(({ path, status, clientLeft }) => [path, status, clientLeft]);
  expect(told.sort()).toEqual([
    ["/first", 499, true],
    ["/large", 499, true],
    ["/small", 499, true],
  ]);
  expect(await end("SIGTERM")).toBe(0);
});

test("what is not done at the deadline is cut, and its outcome stays unknown", async () => {
  const store = `sqlite:${join(await folder(), "semel.db")}`;
  const behind = await waiting();
  const flags = ["--store", store, "--lease", "1h"];
  const first = await gateway(behind.url, ...flags, "--drain", "100ms");
  const client = await rawConnection(first.port);
  client.write(PAY);
  await behind.reached.opened;
  expect(await first.end("SIGTERM")).toBe(0);
  expect((await first.logged(({ event }) => event === "stopped"))["cut"]).toBe(1);
  expect(await client.closed()).toBe("");

  const second = await gateway(behind.url, ...flags);
  const again = await rawConnection(second.port);
  again.write(PAY);
  expect(await again.until("operation-in-progress")).toMatch(/^HTTP\/1\.1 409/);
});

test("a second signal ends it at once", async () => {
  const behind = await waiting();
  const { port, logged, child, end } = await gateway(behind.url, "--drain", "1h");
  const client = await rawConnection(port);
  client.write(PAY);
  await behind.reached.opened;
  child.kill("SIGTERM");
  await logged(({ event }) => event === "stopping");
  expect(await end("SIGTERM")).toBe(143);
});
