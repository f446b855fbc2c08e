// WebSocket and other upgrades pass through as raw tunnels; requests cannot hide in one (GW-3).

import type { Duplex } from "node:stream";
import { afterEach, expect, test } from "vitest";
import { cleanUp, gate, gateway, upstream } from "../processes.ts";
import { message, rawConnection } from "../raw-http.ts";

afterEach(cleanUp);

const WEBSOCKET = ["Host: a", "Connection: keep-alive, Upgrade", "Upgrade: websocket"];

/** An upstream that upgrades and sends back what it gets. */
async function mirror() {
  const behind = await upstream((request, response) => {
    request.resume().on("end", () => response.end(`plain ${request.method}`));
  });
  const closed = gate();
  const seen: { headers: unknown; socket: Duplex }[] = [];
  behind.server.on("upgrade", (request, socket, head) => {
    seen.push({ headers: request.headers, socket });
    socket.write(
      "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: yes\r\n\r\nhello ",
    );
    socket.write(head);
    socket.on("error", () => {});
    socket.on("close", () => closed.open());
    socket.pipe(socket);
  });
  return { ...behind, seen, closed };
}

test("bytes flow both ways, those sent with the handshake included", async () => {
  const behind = await mirror();
  const { port, logged } = await gateway(behind.url, "--upstream-timeout", "200ms");
  const client = await rawConnection(port);
  client.write(
    `${message("GET /chat?room=1 HTTP/1.1", ...WEBSOCKET, "Sec-WebSocket-Key: k")}early `,
  );
  const text = await client.until("hello early ");
  expect(text).toMatch(/^HTTP\/1\.1 101 .*Upgrade: websocket\r\n.*Sec-WebSocket-accept: yes/is);
  expect(behind.seen[0]!.headers).toMatchObject({
    upgrade: "websocket",
    connection: "Upgrade",
    "sec-websocket-key": "k",
    "x-forwarded-host": "a",
  });
  expect(await logged(({ status }) => status === 101)).toMatchObject({ path: "/chat" });
  // Long enough for the upstream to have timed out, were it not a tunnel.
  await new Promise((resolve) => setTimeout(resolve, 500));
  client.write("\x00\xffbinary");
  await client.until("\x00\xffbinary");
});

test("either side's end is the other's", async () => {
  const behind = await mirror();
  const { port } = await gateway(behind.url);
  const leaving = await rawConnection(port);
  leaving.write(message("GET / HTTP/1.1", ...WEBSOCKET));
  await leaving.until("hello");
  leaving.socket.destroy();
  await behind.closed.opened;

  const left = await rawConnection(port);
  left.write(message("GET / HTTP/1.1", ...WEBSOCKET));
  await left.until("hello");
  behind.seen[1]!.socket.destroy();
  await left.closed();
});

test("an upstream that refuses to upgrade is heard", async () => {
  const behind = await upstream((_request, response) => {
    response.writeHead(403).end("no sockets here");
  });
  const { port } = await gateway(behind.url);
  const client = await rawConnection(port);
  client.write(message("GET / HTTP/1.1", ...WEBSOCKET));
  const text = await client.closed();
  expect(text).toMatch(/^HTTP\/1\.1 403 .*Connection: close.*no sockets here/is);

  await behind.stop();
  const later = await rawConnection(port);
  later.write(message("GET / HTTP/1.1", ...WEBSOCKET));
  expect(await later.closed()).toMatch(/^HTTP\/1\.1 502 .*upstream-unreachable/s);
});

test("a keyed request that asks to upgrade is still an operation", async () => {
  const behind = await mirror();
  const { port } = await gateway(behind.url);
  for (const expected of ["executed", "replayed"]) {
    const client = await rawConnection(port);
    client.write(
      `${message(
        "POST / HTTP/1.1",
        ...["Host: a", "Authorization: x", "Idempotency-Key: k", "Content-Length: 2"],
        ...["Connection: Upgrade, HTTP2-Settings", "Upgrade: websocket", "HTTP2-Settings: AAM"],
      )}ok`,
    );
    const text = await client.until("plain POST");
    expect(text).toMatch(/^HTTP\/1\.1 200 /);
    expect(text).toContain(`Idempotency-Status: ${expected}`.toLowerCase());
    client.write(message("GET /next HTTP/1.1", "Host: a"));
    await client.until("plain GET");
  }
  expect(behind.seen).toEqual([]);
});

test("HTTP/2 is not tunnelled, because keyed requests could hide in it", async () => {
  const behind = await mirror();
  const { port } = await gateway(behind.url);
  for (const protocol of ["h2c", "websocket, h2c", "HTTP/2.0", "TLS/1.2"]) {
    const client = await rawConnection(port);
    client.write(
      message("GET / HTTP/1.1", "Host: a", "Connection: Upgrade", `Upgrade: ${protocol}`),
    );
    expect(await client.until("plain GET"), protocol).toMatch(/^HTTP\/1\.1 200 /);
  }
  expect(behind.seen).toEqual([]);
});

test("a connection whose every request asks to upgrade in vain gathers nothing", async () => {
  const behind = await mirror();
  const { port, stderr, end } = await gateway(behind.url);
  const client = await rawConnection(port);
  for (let n = 1; n <= 20; n++) {
    client.write(message(`GET /${n} HTTP/1.1`, "Host: a", "Connection: Upgrade", "Upgrade: h2c"));
    while (client.received().split("plain GET").length <= n) {
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  }
  expect(await end("SIGTERM")).toBe(0);
  expect(stderr()).toBe("");
});
