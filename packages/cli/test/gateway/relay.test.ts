// An answer goes to its client at the client's pace, and only so long as there is one (GW-3).

import type { IncomingMessage, ServerResponse } from "node:http";
import { PassThrough, Writable } from "node:stream";
import { afterEach, expect, test, vi } from "vitest";
import { READING_MS, relay } from "../../src/gateway/relay.ts";
import { cleanUp, gateway, later, upstream } from "../processes.ts";
import { message, rawConnection } from "../raw-http.ts";

afterEach(cleanUp);

const LARGE = 2 ** 25;

for (const [what, key] of [
  ["a download", ""],
  ["an operation's answer", "Idempotency-Key: k\r\n"],
] as const) {
  test(`${what} that is read slowly comes whole: the upstream is not what is silent`, async () => {
    const behind = await upstream((request, response) => {
      request.resume().on("end", () => response.end(Buffer.alloc(LARGE, "a")));
    });
    const flags = ["--scope", "shared", "--upstream-timeout", "300ms"];
    const { port, url, logged } = await gateway(behind.url, ...flags);
    const client = await rawConnection(port);
    client.socket.pause();
    const head = message("POST /report HTTP/1.1", "Host: a", "Content-Length: 2");
    client.write(`${head.slice(0, -2)}${key}\r\na`);
    await pause(50);
    client.write("b");
    // Longer than an upload may pause, too.
    await pause(2_000);
    client.socket.resume();
    const isWhole = () => client.received().length > LARGE;
    while (!isWhole() && !client.socket.destroyed) await pause(20);
    expect(isWhole()).toBe(true);
    expect(await logged(({ path }) => path === "/report")).not.toHaveProperty("broken");
    if (key === "") return;
    const init = { method: "POST", headers: { "idempotency-key": "k" }, body: Buffer.from("ab") };
    const again = await fetch(`${url}/report`, init);
    expect(await again.text()).toContain("result-not-stored");
  });
}

test("a client that takes nothing for minutes is cut", async () => {
  vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
  later(() => vi.useRealTimers());
  const socket = { timeout: 300, setTimeout: vi.fn() };
  const answer = Object.assign(new PassThrough(), { rawHeaders: [], statusCode: 200, socket });
  const response = Object.assign(new Writable({ highWaterMark: 1, write: () => {} }), {
    writeHead: () => {},
    flushHeaders: () => {},
    socket: null as { destroy(): void } | null,
  });
  const relayed = relay(
    answer as unknown as IncomingMessage,
    response as unknown as ServerResponse,
    { holdsShort: false },
  );
  answer.write("more than it takes");
  await new Promise((resolve) => setImmediate(resolve));
  expect(socket.setTimeout).toHaveBeenLastCalledWith(0);
  // As long as it waits for its turn, it cannot take anything.
  vi.advanceTimersByTime(READING_MS);
  const destroy = vi.fn();
  response.socket = { destroy };
  vi.advanceTimersByTime(READING_MS - 1);
  expect(destroy).not.toHaveBeenCalled();
  vi.advanceTimersByTime(1);
  expect(destroy).toHaveBeenCalledOnce();
  answer.destroy();
  await expect(relayed).rejects.toThrow("closed before its end");
});

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
