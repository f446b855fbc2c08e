// Connections of the gateway that are used in unusual ways: answers come in turn, each the right one.

import { afterEach, expect, test } from "vitest";
import { cleanUp, gate, gateway } from "../processes.ts";
import { message, rawConnection } from "../raw-http.ts";
import { recordingUpstream } from "./recording-upstream.ts";

afterEach(cleanUp);

const keyed = (path: string, key: string, ...more: string[]) =>
  message(
    `POST ${path} HTTP/1.1`,
    "Host: a",
    `Idempotency-Key: ${key}`,
    ...more,
    "Content-Length: 0",
  );

/** An upstream that answers `/slow` when it is let, and a gateway before it. */
async function slowly() {
  const asked = gate();
  const mayAnswer = gate();
  const behind = await recordingUpstream(async ({ line }) => {
    if (!line.includes("/slow")) return;
    asked.open();
    await mayAnswer.opened;
  });
  const front = await gateway(behind.url, "--scope", "shared");
  return { behind, front, asked, mayAnswer };
}

test("pipelined keyed requests are answered in turn", async () => {
  const { behind, front, asked, mayAnswer } = await slowly();
  const client = await rawConnection(front.port);
  client.write(
    keyed("/slow", "a") +
      keyed("/b", "b") +
      keyed("/b", "b") +
      keyed("/c", "c", "Connection: close"),
  );
  await asked.opened;
  mayAnswer.open();
  const text = await client.closed();
  const statuses = [...text.matchAll(/HTTP\/1\.1 (\d+)/g)].map(([, status]) => status);
  expect(statuses.at(0)).toBe("200");
  expect(statuses).toHaveLength(4);
  const paths = behind.seen.map(({ line }) => line.split(" ")[1]).sort();
  expect(paths).toEqual(["/b", "/c", "/slow"]);
  const runs = new Map(behind.seen.map(({ line }, index) => [line.split(" ")[1], index + 1]));
  const order = [...text.matchAll(/\{"run":(\d)\}/g)].map(([, run]) => Number(run));
  expect(order[0]).toBe(runs.get("/slow"));
  expect(order.at(-1)).toBe(runs.get("/c"));
});

const LATE = {
  "an upgrade": message("GET /ws HTTP/1.1", "Host: a", "Connection: Upgrade", "Upgrade: websocket"),
  "an upgrade that is none": keyed("/ws", "ws", "Connection: Upgrade", "Upgrade: websocket"),
  CONNECT: message("CONNECT a:1 HTTP/1.1", "Host: a:1"),
};

for (const [what, bytes] of Object.entries(LATE)) {
  test(`${what} behind a request that is not answered yet waits for it in vain`, async () => {
    const { behind, front, asked, mayAnswer } = await slowly();
    const client = await rawConnection(front.port);
    client.write(keyed("/slow", "a") + bytes);
    await asked.opened;
    mayAnswer.open();
    const text = await client.closed();
    expect(text.match(/HTTP\/1\.1 \d+/g), "the first one's answer, and nothing else").toEqual([
      "HTTP/1.1 200",
    ]);
    expect(text).toContain('{"run":1}');
    expect(behind.seen).toHaveLength(1);
  });
}

test("what is ambiguous behind a request that runs is refused in its turn, and nothing after it is read", async () => {
  const { behind, front, asked, mayAnswer } = await slowly();
  const client = await rawConnection(front.port);
  const ambiguous = message("POST /x HTTP/1.1", "Host: a", "Host: b", "Content-Length: 0");
  client.write(keyed("/slow", "a") + ambiguous + keyed("/after", "b"));
  await asked.opened;
  mayAnswer.open();
  const text = await client.closed();
  expect(text.match(/HTTP\/1\.1 \d+/g)).toEqual(["HTTP/1.1 200", "HTTP/1.1 400"]);
  expect(behind.seen).toHaveLength(1);
});

test("an upgrade with a key is an operation like others", async () => {
  const behind = await recordingUpstream();
  const { port } = await gateway(behind.url, "--scope", "shared");
  for (const state of ["executed", "replayed"]) {
    const client = await rawConnection(port);
    client.write(keyed("/up", "k", "Connection: Upgrade, close", "Upgrade: websocket"));
    expect(await client.closed()).toContain(`idempotency-status: ${state}`);
  }
  expect(behind.seen).toHaveLength(1);
  expect(behind.seen[0]!.fields.join()).not.toMatch(/upgrade/i);
});

test("100 Continue is said to what may run, and to nothing that is refused", async () => {
  const behind = await recordingUpstream();
  const { port } = await gateway(behind.url, "--scope", "shared", "--max-body", "10");
  const statuses = async (...lines: string[]) => {
    const client = await rawConnection(port);
    const head = message("POST / HTTP/1.1", "Expect: 100-continue", "Connection: close", ...lines);
    client.write(`${head}hello`);
    const text = await client.closed();
    return [...text.matchAll(/HTTP\/1\.1 (\d+)/g)].map(([, status]) => Number(status));
  };
  const key = "Idempotency-Key: k";
  expect(await statuses("Host: a", "Host: b", "Content-Length: 5")).toEqual([400]);
  expect(await statuses("Host: a", "Content-Length: 0, 5")).toEqual([400]);
  expect(await statuses("Host: a", key, "Content-Length: 11")).toEqual([413]);
  expect(behind.seen).toEqual([]);
  expect(await statuses("Host: a", key, "Content-Length: 5")).toEqual([100, 200]);
  expect(behind.seen[0]!.fields.join()).not.toMatch(/expect/i);
});

test("a head beyond 16 KiB is 431, and nothing gets behind", async () => {
  const behind = await recordingUpstream();
  const { port } = await gateway(behind.url, "--scope", "shared");
  for (const bytes of [
    keyed("/", "k", `X-Long: ${"x".repeat(20_000)}`),
    keyed(`/${"a".repeat(20_000)}`, "k"),
    keyed("/", "k".repeat(20_000)),
    keyed("/", "k", ...Array(10_000).fill("X-A: b")),
  ]) {
    const client = await rawConnection(port);
    client.write(bytes);
    expect(await client.closed()).toMatch(/^HTTP\/1\.1 431 /);
  }
  expect(behind.bytes()).toBe("");
});

test("a keyed body that stops coming ends the connection, and nothing gets behind", async () => {
  const behind = await recordingUpstream();
  const { port, url } = await gateway(
    behind.url,
    "--scope",
    "shared",
    "--upstream-timeout",
    "50ms",
  );
  const client = await rawConnection(port);
  client.write(
    `${message("POST / HTTP/1.1", "Host: a", "Idempotency-Key: k", "Content-Length: 10")}hello`,
  );
  expect(await client.closed()).toBe("");
  expect(behind.bytes()).toBe("");
  const init = { method: "POST", headers: { "Idempotency-Key": "k" }, body: "hellohello" };
  expect((await fetch(url, init)).headers.get("idempotency-status")).toBe("executed");
});

test("so does one that stops behind a request that is answered meanwhile", async () => {
  const behind = await recordingUpstream();
  const flags = ["--scope", "shared", "--upstream-timeout", "500ms"];
  const { port } = await gateway(behind.url, ...flags);
  const client = await rawConnection(port);
  const head = (...lines: string[]) => message("POST / HTTP/1.1", "Host: a", ...lines);
  client.write(`${head("Content-Length: 2")}a`);
  await new Promise((resolve) => setTimeout(resolve, 50));
  client.write(`b${head("Idempotency-Key: k", "Content-Length: 10")}hello`);
  expect(await client.closed()).toMatch(/^HTTP\/1\.1 200 .*\{"run":1\}$/s);
  expect(behind.seen).toHaveLength(1);
});
