// Keyed requests through the gateway: one effect and one answer, and the truth where neither is known
// (GW-2, GW-3a).

import { once } from "node:events";
import { type AddressInfo, createServer } from "node:net";
import { join } from "node:path";
import { afterEach, expect, test } from "vitest";
import { cleanUp, folder, gate, gateway, later, upstream } from "../processes.ts";
import { message, rawConnection } from "../raw-http.ts";

afterEach(cleanUp);

interface Answer {
  status: number;
  state: string | null;
  text: string;
  code?: string;
  retry?: string;
  detail?: string;
}

/** Posts with a key, as one caller unless told otherwise. */
async function post(
  url: string,
  key: string,
  options: { body?: string; headers?: Record<string, string> } = {},
): Promise<Answer> {
  const { body = "{}", headers = { authorization: "Bearer one" } } = options;
  const response = await fetch(`${url}/payments`, {
    method: "POST",
    headers: { "idempotency-key": key, "content-type": "application/json", ...headers },
    body,
  });
  const text = await response.text();
  const isProblem = response.headers.get("content-type") === "application/problem+json";
  const { status } = response;
  const state = response.headers.get("idempotency-status");
  return { status, state, text, ...(isProblem && JSON.parse(text)) };
}

/** An upstream whose every call is another charge. */
async function charging(status = 201) {
  const calls: { key: unknown; attempt: unknown; connection: number | undefined }[] = [];
  const behind = await upstream((request, response) => {
    const { "idempotency-key": key, "idempotency-attempt": attempt } = request.headers;
    calls.push({ key, attempt, connection: request.socket.remotePort });
    request.resume().on("end", () => response.writeHead(status).end(`charge ${calls.length}`));
  });
  return { ...behind, calls };
}

test("a duplicate is answered without the upstream, and another body is refused", async () => {
  const behind = await charging();
  const { url } = await gateway(behind.url);
  const first = { status: 201, state: "executed", text: "charge 1" };
  expect(await post(url, '"k1"')).toMatchObject(first);
  expect(await post(url, "k1")).toMatchObject({ ...first, state: "replayed" });
  expect(await post(url, "k1", { body: "[]" })).toMatchObject({ status: 422, code: "key-reused" });
  expect(await post(url, "k2")).toMatchObject({ text: "charge 2" });
  expect(behind.calls).toMatchObject([
    { key: '"k1"', attempt: "1" },
    { key: "k2", attempt: "1" },
  ]);
});

test("operations use kept connections once the upstream has been seen to keep them", async () => {
  const behind = await charging();
  const { url } = await gateway(behind.url);
  const ports = new Set<number | undefined>();
  // The first ones have connections of their own.
  for (let i = 0; ports.size === i; i++) {
    await post(url, `k${i}`);
    ports.add(behind.calls.at(-1)!.connection);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  expect(behind.calls.length).toBe(ports.size + 1);
});

test("an upstream that closes connections unasked gets a fresh one for each operation", async () => {
  const connections = new Set<number | undefined>();
  const behind = await upstream((request, response) => {
    connections.add(request.socket.remotePort);
    request.resume().on("end", () => {
      // It says that it keeps the connection, and does not.
      response.on("finish", () => setTimeout(() => request.socket.destroy(), 5));
      response.end("charged");
    });
  });
  const { url } = await gateway(behind.url);
  for (let i = 0; i < 10; i++) {
    expect(await post(url, `k${i}`)).toMatchObject({ status: 200, text: "charged" });
  }
  expect(connections.size).toBe(10);
});

test("the absolute form of a target is the same request", async () => {
  const behind = await charging();
  const { port } = await gateway(behind.url);
  for (const target of ["/payments?a=1", "http://shop.test/payments?a=1"]) {
    const client = await rawConnection(port);
    const head = [`POST ${target} HTTP/1.1`, "Host: shop.test", "Authorization: x"];
    client.write(message(...head, "Idempotency-Key: k", "Content-Length: 0"));
    await client.until("charge 1");
  }
  expect(behind.calls).toHaveLength(1);
});

test("a credential never sees another one's answer, and without one there is no scope", async () => {
  const behind = await charging();
  const { url, port } = await gateway(behind.url);
  await post(url, "k");
  const other = await post(url, "k", { headers: { authorization: "Bearer two" } });
  expect(other).toMatchObject({ state: "executed", text: "charge 2" });

  const nobody = await post(url, "k", { headers: {} });
  expect(nobody).toMatchObject({ status: 401, code: "scope-missing" });
  expect(nobody.detail).toContain("--scope shared");

  const twice = await rawConnection(port);
  const head = ["POST /payments HTTP/1.1", "Host: a", "Idempotency-Key: k", "Content-Length: 0"];
  twice.write(message(...head, "Authorization: Bearer one", "Authorization: Bearer two"));
  expect(await twice.until("scope-missing")).toMatch(/^HTTP\/1\.1 401/);
  expect(behind.calls).toHaveLength(2);
});

test("a header can name the caller, and so can nobody", async () => {
  const behind = await charging();
  const named = await gateway(behind.url, "--scope", "header:X-Account");
  expect(await post(named.url, "k", { headers: { "x-account": "a" } })).toMatchObject({
    text: "charge 1",
  });
  expect(await post(named.url, "k", { headers: { "x-account": "b" } })).toMatchObject({
    text: "charge 2",
  });
  expect(await post(named.url, "k", { headers: { "x-account": " " } })).toMatchObject({
    status: 401,
  });
  const shared = await gateway(behind.url, "--scope", "shared");
  await post(shared.url, "k", { headers: {} });
  expect(await post(shared.url, "k")).toMatchObject({ state: "replayed", text: "charge 3" });
});

test("methods, a required key and the bounds of bodies and results are the operator's", async () => {
  const behind = await charging();
  const { url } = await gateway(
    behind.url,
    ...["--methods", "PUT", "--required", "--max-body", "10", "--max-result", "4"],
  );
  await post(url, "k");
  await post(url, "k");
  expect(behind.calls, "POST has no keys here").toHaveLength(2);
  const put = async (key: string | undefined, body: string) => {
    const headers = { authorization: "x", ...(key && { "idempotency-key": key }) };
    const response = await fetch(url, { method: "PUT", headers, body });
    return [response.status, await response.text()] as const;
  };
  expect(await put(undefined, "")).toEqual([400, expect.stringContaining("key-missing")]);
  expect(await put("k", "0123456789a")).toEqual([413, expect.stringContaining("body-too-large")]);
  expect(await put("k", "ok")).toEqual([201, "charge 3"]);
  expect(await put("k", "ok")).toEqual([409, expect.stringContaining("result-not-stored")]);
});

test("an upstream that was never reached releases the key", async () => {
  const behind = await charging();
  const { url, logged } = await gateway(behind.url);
  await behind.stop();
  expect(await post(url, "k")).toMatchObject({
    status: 502,
    code: "upstream-unreachable",
    retry: "same-key",
    state: "released",
  });
  const { broken } = await logged(({ event }) => event === "request");
  expect(broken, "for whoever runs the gateway").toContain("ECONNREFUSED");
  const back = await upstream((request, response) => {
    request
      .resume()
      .on("end", () => response.end(`attempt ${request.headers["idempotency-attempt"]}`));
  }, behind.port);
  expect(back.port).toBe(behind.port);
  expect(await post(url, "k")).toMatchObject({ status: 200, text: "attempt 2", state: "executed" });
});

test("a host that cannot be resolved was never reached either", async () => {
  const { url } = await gateway("http://nowhere.invalid");
  expect(await post(url, "k")).toMatchObject({ status: 502, code: "upstream-unreachable" });
});

test("an exchange that breaks off before the answer leaves the outcome unknown", async () => {
  let calls = 0;
  const behind = await upstream((request, response) => {
    calls++;
    request.resume().on("end", () => response.socket?.destroy());
  });
  const { url } = await gateway(behind.url);
  const broken = await post(url, "k");
  expect(broken).toMatchObject({
    status: 502,
    code: "outcome-unknown",
    retry: "never",
    state: "unknown",
  });
  expect(await post(url, "k")).toMatchObject({ status: 409, code: "outcome-unknown" });
  expect(calls).toBe(1);
});

test("an upstream that is silent for too long leaves the outcome unknown", async () => {
  let calls = 0;
  const behind = await upstream(() => calls++);
  const { url } = await gateway(behind.url, "--upstream-timeout", "300ms");
  expect(await post(url, "k")).toMatchObject({
    status: 504,
    code: "outcome-unknown",
    state: "unknown",
  });
  expect(await post(url, "k")).toMatchObject({ status: 409, code: "outcome-unknown" });
  expect(calls).toBe(1);
});

test("an answer that is no HTTP leaves the outcome unknown", async () => {
  const behind = await upstream((request, response) => {
    const nonsense = request.url === "/payments" ? "HTTP/1.1 200 OK\r\nX: a\rb\r\n\r\n" : "";
    request.resume().on("end", () => response.socket?.end(nonsense));
  });
  const { url } = await gateway(behind.url);
  expect(await post(url, "k")).toMatchObject({ status: 502, code: "outcome-unknown" });
  expect(await post(url, "k")).toMatchObject({ status: 409, code: "outcome-unknown" });
});

test("a status that ends no exchange is no answer, with a key and without", async () => {
  const statuses = ["101 Switching Protocols", "000 Nothing", "099 Nothing"];
  const behind = await upstream((request, response) => {
    const status = statuses[Number(request.url?.slice(-1))];
    const head = message(`HTTP/1.1 ${status}`, "Content-Length: 2");
    request.resume().on("end", () => response.socket?.write(`${head}ok`));
  });
  const { port } = await gateway(behind.url);
  const send = async (target: string, ...more: string[]) => {
    const client = await rawConnection(port);
    client.write(
      message(
        `POST ${target} HTTP/1.1`,
        "Host: a",
        ...more,
        "Connection: close",
        "Content-Length: 0",
      ),
    );
    return client.closed();
  };
  for (const [at, status] of statuses.entries()) {
    expect(await send(`/${at}`), status).toMatch(/^HTTP\/1\.1 502 .*upstream-broken/s);
    const keyed = ["Authorization: x", `Idempotency-Key: ${at}`];
    expect(await send(`/${at}`, ...keyed), status).toMatch(/^HTTP\/1\.1 502 .*outcome-unknown/s);
    expect(await send(`/${at}`, ...keyed), status).toMatch(/^HTTP\/1\.1 409 .*outcome-unknown/s);
  }
});

test("a short answer that breaks off is told as unknown, a stream is broken off", async () => {
  const behind = await upstream((request, response) => {
    request.resume().on("end", () => {
      if (request.url === "/short") response.writeHead(200, { "content-length": 10 });
      response.write("half", () => response.socket?.destroy());
    });
  });
  const { port } = await gateway(behind.url);
  const send = async (target: string) => {
    const client = await rawConnection(port);
    const head = [`POST ${target} HTTP/1.1`, "Host: a", "Authorization: x", "Connection: close"];
    client.write(message(...head, `Idempotency-Key: ${target}`, "Content-Length: 0"));
    return client.closed();
  };
  const short = await send("/short");
  expect(short).toMatch(/^HTTP\/1\.1 502 .*outcome-unknown/s);
  expect(short).not.toContain("half");
  const stream = await send("/stream");
  expect(stream).toMatch(/^HTTP\/1\.1 200 .*half/s);
  expect(stream).not.toContain("0\r\n\r\n");
  for (const target of ["/short", "/stream"]) {
    expect(await send(target)).toMatch(/^HTTP\/1\.1 409 .*outcome-unknown/s);
  }
});

/** An upstream that answers as soon as a request begins, and reads no more of it than came with that. */
async function hasty(then: "close" | "reset" | "go-on") {
  let calls = 0;
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    socket.on("error", () => {});
    socket.once("data", () => {
      calls++;
      const answer = ["HTTP/1.1 413 Content Too Large", "Content-Length: 9", "Connection: close"];
      socket.write(`${message(...answer)}too large`);
      if (then === "go-on") return void socket.resume().once("end", () => socket.end());
      socket.pause();
      // When the answer has left: what follows must not overtake it.
      if (then === "close") socket.end();
      else setTimeout(() => socket.resetAndDestroy(), 50);
    });
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  later(() => server.close());
  const { port } = server.address() as AddressInfo;
  return { url: `http://127.0.0.1:${port}`, calls: () => calls };
}

test.each(["go-on", "close", "reset"] as const)(
  "an upstream that answers before it has read the request, and then: %s",
  async (then) => {
    const behind = await hasty(then);
    const { url } = await gateway(behind.url, "--max-body", "16m");
    const body = "x".repeat(8 * 2 ** 20);
    const { status, text } = await post(url, "k", { body });
    // Where the connection is reset, the answer may be lost with it; nobody knows then.
    const isKnown = status === 413;
    if (isKnown) expect(text).toBe("too large");
    else expect([then, status, JSON.parse(text).code]).toEqual(["reset", 502, "outcome-unknown"]);
    expect(await post(url, "k", { body })).toMatchObject(
      isKnown ? { status: 413, text: "too large", state: "replayed" } : { status: 409 },
    );
    expect(behind.calls()).toBe(1);
    // Nothing is left over for whoever comes next.
    expect((await post(url, "next")).status).toBe(413);
  },
);

test("an upstream that closes before it has read the request leaves the outcome unknown", async () => {
  let calls = 0;
  const server = createServer((socket) => {
    socket.on("error", () => {});
    socket.once("data", () => {
      calls++;
      socket.destroy();
    });
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  later(() => server.close());
  const { port } = server.address() as AddressInfo;
  const { url } = await gateway(`http://127.0.0.1:${port}`, "--max-body", "16m");
  const body = "x".repeat(8 * 2 ** 20);
  expect(await post(url, "k", { body })).toMatchObject({ status: 502, code: "outcome-unknown" });
  expect(await post(url, "k", { body })).toMatchObject({ status: 409, code: "outcome-unknown" });
  expect(calls).toBe(1);
});

for (const [policy, second] of [
  ["release", { status: 503, state: "released", text: "charge 2" }],
  ["hold", { status: 409, code: "outcome-unknown" }],
  ["store", { status: 503, state: "replayed", text: "charge 1" }],
] as const) {
  test(`an upstream's 503 follows --on-error ${policy}`, async () => {
    const behind = await charging(503);
    const { url } = await gateway(behind.url, "--on-error", policy);
    expect(await post(url, "k")).toMatchObject({ status: 503, text: "charge 1" });
    expect(await post(url, "k")).toMatchObject(second);
  });
}

test("a client that leaves does not cancel its operation", async () => {
  const reached = gate();
  const answer = gate();
  let wasCancelled = false;
  const behind = await upstream((request, response) => {
    request.resume().on("end", async () => {
      response.on("close", () => {
        wasCancelled = !response.writableFinished;
      });
      reached.open();
      await answer.opened;
      // More than fits into the buffers on the way, so that backpressure has to be given up.
      response.write(Buffer.alloc(2 ** 23, "x"));
      response.end("charged");
    });
  });
  const { url, port, logged } = await gateway(behind.url, "--max-result", "16m");
  const client = await rawConnection(port);
  const head = ["POST /payments HTTP/1.1", "Host: a", "Authorization: Bearer one"];
  client.write(
    `${message(...head, "Idempotency-Key: k", "Content-Type: application/json", "Content-Length: 2")}{}`,
  );
  await reached.opened;
  expect(await post(url, "k")).toMatchObject({ status: 409, code: "operation-in-progress" });
  client.socket.destroy();
  answer.open();
  await logged(({ clientLeft }) => clientLeft === true);
  const replay = await post(url, "k");
  expect(replay).toMatchObject({ status: 200, state: "replayed" });
  expect(replay.text.slice(-8)).toBe("xcharged");
  expect(wasCancelled).toBe(false);
});

test("a client that leaves in the middle of a stream does not stall its operation", async () => {
  const rest = gate();
  const behind = await upstream((request, response) => {
    request.resume().on("end", async () => {
      response.write(Buffer.alloc(2 ** 24, "x"));
      await rest.opened;
      response.end("charged");
    });
  });
  const { url, port, logged } = await gateway(behind.url, "--max-result", "32m");
  const client = await rawConnection(port);
  const head = ["POST /payments HTTP/1.1", "Host: a", "Authorization: Bearer one"];
  client.write(
    `${message(...head, "Idempotency-Key: k", "Content-Type: application/json", "Content-Length: 2")}{}`,
  );
  await client.until("xxxx");
  client.socket.pause();
  client.socket.destroy();
  rest.open();
  await logged(({ clientLeft }) => clientLeft === true);
  expect((await post(url, "k")).text.slice(-8)).toBe("xcharged");
});

test("an endless stream whose client has left is given up, and its outcome is unknown", async () => {
  const givenUp = gate();
  const behind = await upstream((request, response) => {
    const ticking = setInterval(() => response.write("tick"), 20);
    request.socket.on("close", () => {
      clearInterval(ticking);
      givenUp.open();
    });
  });
  const { url, port } = await gateway(behind.url, "--lease", "300ms");
  const client = await rawConnection(port);
  const head = ["POST /payments HTTP/1.1", "Host: a", "Authorization: Bearer one"];
  client.write(
    `${message(...head, "Idempotency-Key: k", "Content-Type: application/json", "Content-Length: 2")}{}`,
  );
  await client.until("tick");
  client.socket.destroy();
  await givenUp.opened;
  expect(await post(url, "k")).toMatchObject({ status: 409, code: "outcome-unknown" });
});

test("a client that leaves before its body is whole has begun nothing", async () => {
  const behind = await charging();
  const { url, port, logged } = await gateway(behind.url);
  const client = await rawConnection(port);
  const head = ["POST /payments HTTP/1.1", "Host: a", "Authorization: Bearer one"];
  client.write(`${message(...head, "Idempotency-Key: k", "Content-Length: 10")}half`);
  client.socket.end();
  await client.closed();
  await logged(({ event }) => event === "request");
  expect(behind.calls).toEqual([]);
  expect(await post(url, "k")).toMatchObject({ text: "charge 1" });
});

test("a body that stops coming ends the connection, and has begun nothing", async () => {
  const behind = await charging();
  const { url, port } = await gateway(behind.url, "--upstream-timeout", "1s");
  const client = await rawConnection(port);
  const head = ["POST /payments HTTP/1.1", "Host: a", "Authorization: Bearer one"];
  client.write(`${message(...head, "Idempotency-Key: k", "Content-Length: 10")}half`);
  await client.closed();
  expect(behind.calls).toEqual([]);
  expect(await post(url, "k")).toMatchObject({ text: "charge 1" });
});

test("duplicates wait for the first one's answer when told to", async () => {
  const reached = gate();
  const answer = gate();
  const behind = await upstream((_request, response) => {
    reached.open();
    void answer.opened.then(() => response.end("once"));
  });
  const { url } = await gateway(behind.url, "--wait", "20s");
  const first = post(url, "k");
  await reached.opened;
  const second = post(url, "k");
  answer.open();
  expect(await first).toMatchObject({ text: "once", state: "executed" });
  expect(await second).toMatchObject({ text: "once", state: "replayed" });
});

test("50 duplicates over two gateways on one file reach the upstream once", async () => {
  const store = `sqlite:${join(await folder(), "semel.db")}`;
  const behind = await charging();
  const flags = ["--store", store, "--wait", "20s"];
  const pair = await Promise.all([gateway(behind.url, ...flags), gateway(behind.url, ...flags)]);
  const answers = await Promise.all(
    Array.from({ length: 50 }, (_, i) => post(pair[i % 2]!.url, "k")),
  );
  expect(behind.calls).toHaveLength(1);
  for (const answer of answers) expect(answer).toMatchObject({ status: 201, text: "charge 1" });
  expect(answers.filter(({ state }) => state === "executed")).toHaveLength(1);
});
