// What passes through the gateway whether or not it has a key (GW-3).

import { createHash, randomBytes } from "node:crypto";
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import { Agent, request as httpRequest, type IncomingMessage } from "node:http";
import { afterEach, expect, test } from "vitest";
import { cleanUp, gate, gateway, later, upstream } from "../processes.ts";
import { message, rawConnection } from "../raw-http.ts";

afterEach(cleanUp);

/** An upstream that answers with what it got. */
function echo(request: IncomingMessage): Promise<string> {
  return new Promise((resolve) => {
    let body = "";
    request.setEncoding("latin1");
    request.on("data", (chunk) => {
      body += chunk;
    });
    request.on("end", () => {
      const { method, url, rawHeaders, httpVersion } = request;
      resolve(JSON.stringify({ method, url, rawHeaders, httpVersion, body }));
    });
  });
}

const echoing = () =>
  upstream(async (request, response) => {
    response.end(Buffer.from(await echo(request), "latin1"));
  });

interface Seen {
  url: string;
  body: string;
  rawHeaders: string[];
}

/** What the upstream saw, in an answer as it came. */
function jsonIn(text: string): Seen {
  return JSON.parse(text.slice(text.indexOf("{"), text.lastIndexOf("}") + 1));
}

function lines(rawHeaders: string[], name: string): string[] {
  return rawHeaders.filter((_, i) => i % 2 === 1 && rawHeaders[i - 1]!.toLowerCase() === name);
}

test("method, target, body and repeated headers reach the upstream as they were sent", async () => {
  const behind = await echoing();
  const { port } = await gateway(behind.url);
  const client = await rawConnection(port);
  client.write(
    "PUT /a//b%2Fc/../d?q=%20&q=2 HTTP/1.1\r\nHost: shop.test\r\nX-Twice: one\r\nX-TWICE: two\r\n" +
      "Content-Type: text/plain\r\nContent-Length: 4\r\n\r\nb\xf6dy",
  );
  const text = await client.until("}");
  const seen = jsonIn(text);
  expect(seen).toMatchObject({ method: "PUT", url: "/a//b%2Fc/../d?q=%20&q=2", body: "b\xf6dy" });
  expect(lines(seen.rawHeaders, "x-twice")).toEqual(["one", "two"]);
  expect(lines(seen.rawHeaders, "content-length")).toEqual(["4"]);
  expect(lines(seen.rawHeaders, "host")).toEqual([new URL(behind.url).host]);
  expect(lines(seen.rawHeaders, "x-forwarded-host")).toEqual(["shop.test"]);
  expect(lines(seen.rawHeaders, "x-forwarded-proto")).toEqual(["http"]);
  expect(lines(seen.rawHeaders, "x-forwarded-for")).toEqual(["127.0.0.1"]);
  expect(lines(seen.rawHeaders, "via")).toEqual(["1.1 semel"]);
});

test("hop-by-hop headers stay behind, both ways", async () => {
  const behind = await upstream(async (request, response) => {
    const body = await echo(request);
    response.writeHead(200, [
      ...["Connection", "keep-alive, X-Mine", "X-Mine", "1", "Keep-Alive", "timeout=9"],
      ...["Proxy-Authenticate", "Basic", "X-Kept", "yes", "Set-Cookie", "a=1", "Set-Cookie", "b=2"],
    ]);
    response.end(body);
  });
  const { port } = await gateway(behind.url);
  const client = await rawConnection(port);
  client.write(
    message(
      "GET / HTTP/1.1",
      "Host: a",
      "Connection: keep-alive, X-Private, Cookie",
      "X-Private: secret",
      "Cookie: session=1",
      "TE: trailers",
      "Proxy-Connection: keep-alive",
      "Proxy-Authorization: Basic eA==",
    ),
  );
  const text = await client.until("}");
  const seen = jsonIn(text);
  for (const name of ["x-private", "te", "proxy-connection", "proxy-authorization", "keep-alive"]) {
    expect(lines(seen.rawHeaders, name), name).toEqual([]);
  }
  expect(lines(seen.rawHeaders, "cookie"), "Connection cannot take it off").toEqual(["session=1"]);
  expect(text).not.toMatch(/x-mine|timeout=9|proxy-auth/i);
  expect(text).toMatch(/X-Kept: yes\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2/);
});

test("what clients say of themselves is believed only when told to", async () => {
  const behind = await echoing();
  const said = {
    "x-forwarded-for": "6.6.6.6",
    "x-forwarded-proto": "https",
    "x-forwarded-host": "evil.test",
    forwarded: "for=6.6.6.6",
    x_forwarded_for: "6.6.6.6",
    "idempotency-attempt": "7",
    idempotency_attempt: "7",
    idempotency_key: "k",
  };
  const careful = await gateway(behind.url);
  const got = async (url: string) => jsonIn(await (await fetch(url, { headers: said })).text());
  const { rawHeaders } = await got(careful.url);
  expect(JSON.stringify(rawHeaders)).not.toMatch(/6\.6\.6\.6|evil|https|attempt|_/i);
  expect(lines(rawHeaders, "x-forwarded-for")).toEqual(["127.0.0.1"]);

  const trusting = await gateway(behind.url, "--trust-forwarded");
  const { rawHeaders: trusted } = await got(trusting.url);
  expect(lines(trusted, "x-forwarded-for")).toEqual(["6.6.6.6, 127.0.0.1"]);
  expect(lines(trusted, "x-forwarded-proto")).toEqual(["https"]);
  expect(lines(trusted, "x-forwarded-host")).toEqual(["evil.test"]);
  expect(JSON.stringify(trusted)).not.toMatch(/attempt|_/i);
});

test("a client's connection serves many requests, and so does the upstream's", async () => {
  let connections = 0;
  const behind = await echoing();
  behind.server.on("connection", () => connections++);
  const { url } = await gateway(behind.url);
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  later(() => agent.destroy());
  const ports = new Set<number | undefined>();
  for (let i = 0; i < 5; i++) {
    const request = httpRequest(`${url}/${i}`, { agent }).end();
    const [response] = (await once(request, "response")) as [IncomingMessage];
    ports.add(request.socket?.localPort);
    response.resume();
    await once(response, "end");
  }
  expect(ports.size).toBe(1);
  expect(connections).toBe(1);
});

for (const keyed of [false, true]) {
  test(`${keyed ? "an operation's" : "an ordinary"} answer flows: head, first and last part`, async () => {
    const first = gate();
    const last = gate();
    const behind = await upstream(async (_request, response) => {
      response.flushHeaders();
      await first.opened;
      response.write("first");
      await last.opened;
      response.end("last");
    });
    const { port } = await gateway(behind.url);
    const client = await rawConnection(port);
    const key = keyed ? ["Idempotency-Key: k", "Authorization: x", "Content-Length: 0"] : [];
    client.write(message(`${keyed ? "POST" : "GET"} / HTTP/1.1`, "Host: a", ...key));
    expect(await client.until("\r\n\r\n")).toMatch(/^HTTP\/1\.1 200 /);
    first.open();
    expect(await client.until("first")).not.toContain("last");
    last.open();
    await client.until("last\r\n0\r\n\r\n");
  });
}

test("an upload's first byte reaches the upstream before its second is sent", async () => {
  const first = gate<string>();
  const behind = await upstream((request, response) => {
    request.setEncoding("utf8").once("data", first.open);
    request.on("end", () => response.end("done"));
  });
  const { port } = await gateway(behind.url);
  const client = await rawConnection(port);
  client.write(message("POST /upload HTTP/1.1", "Host: a", "Transfer-Encoding: chunked"));
  client.write("5\r\nfirst\r\n");
  expect(await first.opened).toBe("first");
  client.write("0\r\n\r\n");
  await client.until("done");
});

test("bodies of 256 MiB pass both ways within constant memory", async () => {
  const block = randomBytes(2 ** 20);
  const blocks = 256;
  const behind = await upstream(async (request, response) => {
    const digest = createHash("sha256");
    for await (const chunk of request) digest.update(chunk);
    response.setHeader("x-digest", digest.digest("hex"));
    for (let i = 0; i < blocks; i++) {
      if (!response.write(block)) await once(response, "drain");
    }
    response.end();
  });
  const { url, child } = await gateway(behind.url);
  const request = httpRequest(url, { method: "POST" });
  const answered = once(request, "response") as Promise<[IncomingMessage]>;
  const sent = createHash("sha256");
  for (let i = 0; i < blocks; i++) {
    sent.update(block);
    if (!request.write(block)) await once(request, "drain");
  }
  request.end();
  const [response] = await answered;
  const received = createHash("sha256");
  let length = 0;
  for await (const chunk of response) {
    received.update(chunk);
    length += chunk.length;
  }
  expect(length).toBe(blocks * block.length);
  expect(response.headers["x-digest"]).toBe(sent.digest("hex"));
  const status = await readFile(`/proc/${child.pid}/status`, "utf8").catch(() => "");
  const peakMiB = Number(/VmHWM:\s+(\d+)/.exec(status)?.[1] ?? 0) / 1024;
  expect(peakMiB, "an idle gateway has about 80").toBeLessThan(200);
});

test("a client that leaves an ordinary request takes the upstream's along", async () => {
  const aborted = gate();
  const begun = gate();
  const behind = await upstream((_request, response) => {
    response.on("close", () => aborted.open());
    response.write("one");
    begun.open();
  });
  const { port } = await gateway(behind.url);
  const client = await rawConnection(port);
  client.write(message("GET /events HTTP/1.1", "Host: a"));
  await begun.opened;
  client.socket.destroy();
  await aborted.opened;
});

test("an upstream may answer before it has read the body", async () => {
  const givenUp = gate();
  const behind = await upstream((request, response) => {
    request.socket.on("close", () => givenUp.open());
    response.writeHead(413).end("too much");
  });
  behind.server.keepAliveTimeout = 0;
  const { port } = await gateway(behind.url);
  const client = await rawConnection(port);
  client.write(message("POST / HTTP/1.1", "Host: a", "Content-Length: 100000"));
  client.write("some");
  expect(await client.until("too much")).toContain("413");
  await givenUp.opened;
});

test("100-continue is said by the gateway, unless the body is too large in any case", async () => {
  const behind = await echoing();
  const { port } = await gateway(behind.url, "--max-body", "1k");
  const client = await rawConnection(port);
  const expecting = ["Host: a", "Expect: 100-continue", "Authorization: x"];
  client.write(message("POST / HTTP/1.1", ...expecting, "Content-Length: 2"));
  await client.until("HTTP/1.1 100 Continue\r\n\r\n");
  client.write("ok");
  const text = await client.until("}");
  expect(jsonIn(text).body).toBe("ok");
  expect(text).not.toMatch(/expect/i);

  const keyed = await rawConnection(port);
  keyed.write(
    message("POST / HTTP/1.1", ...expecting, "Idempotency-Key: k", "Content-Length: 2000"),
  );
  const refused = await keyed.until("body-too-large");
  expect(refused).toMatch(/^HTTP\/1\.1 413/);
});

test("early hints pass, and trailers do not", async () => {
  const behind = await upstream((request, response) => {
    request.resume();
    request.on("end", () => {
      response.writeEarlyHints({ link: "</style.css>; rel=preload; as=style" });
      response.writeHead(200, { Trailer: "X-Sum" });
      response.write(`trailers: ${JSON.stringify(request.rawTrailers)};`);
      response.addTrailers({ "X-Sum": "42" });
      response.end("end");
    });
  });
  const { port } = await gateway(behind.url);
  const client = await rawConnection(port);
  client.write(message("POST / HTTP/1.1", "Host: a", "Trailer: X-T", "Transfer-Encoding: chunked"));
  client.write("2\r\nab\r\n0\r\nX-T: 1\r\n\r\n");
  const text = await client.until("0\r\n\r\n");
  expect(text).toMatch(
    /^HTTP\/1\.1 103 Early Hints\r\nLink: <\/style.css>[^\r]*\r\n\r\nHTTP\/1\.1 200/i,
  );
  expect(text).toContain("trailers: [];");
  expect(text).not.toMatch(/x-sum/i);
});

test("an absolute target's host replaces Host, and OPTIONS * and CONNECT are told apart", async () => {
  const behind = await echoing();
  const { port } = await gateway(behind.url);
  const absolute = await rawConnection(port);
  absolute.write(message("GET http://shop.test:81?a=1 HTTP/1.1", "Host: other.test"));
  const text = await absolute.until("}");
  const seen = jsonIn(text);
  expect(seen.url).toBe("/?a=1");
  expect(lines(seen.rawHeaders, "x-forwarded-host")).toEqual(["shop.test:81"]);

  const star = await rawConnection(port);
  star.write(message("OPTIONS * HTTP/1.1", "Host: a"));
  expect(await star.until("}")).toContain('"url":"*"');

  const connect = await rawConnection(port);
  connect.write(message("CONNECT shop.test:443 HTTP/1.1", "Host: shop.test:443"));
  expect(await connect.closed()).toMatch(/^HTTP\/1\.1 405/);
});

test("an ordinary request to a service that is down, silent or broken gets 502 or 504", async () => {
  const behind = await upstream((request, response) => {
    if (request.url === "/silent") return;
    if (request.url === "/cut") return void response.socket?.destroy();
    response.socket?.end("HTTP/1.1 200 OK\r\nContent-Length: nonsense\r\n\r\n");
  });
  const { url } = await gateway(behind.url, "--upstream-timeout", "300ms");
  const got = async (path: string) => {
    const response = await fetch(url + path);
    const { code, retry } = (await response.json()) as { code: string; retry?: string };
    expect(retry, "no key, nothing to retry with").toBeUndefined();
    return [response.status, code, response.headers.get("content-type")];
  };
  const type = "application/problem+json";
  expect(await got("/silent")).toEqual([504, "upstream-timeout", type]);
  expect(await got("/cut")).toEqual([502, "upstream-broken", type]);
  expect(await got("/nonsense")).toEqual([502, "upstream-broken", type]);
  await behind.stop();
  expect(await got("/")).toEqual([502, "upstream-unreachable", type]);
});

test("an answer that breaks off is broken off for the client, too", async () => {
  const behind = await upstream((_request, response) => {
    response.write("half", () => response.socket?.destroy());
  });
  const { port } = await gateway(behind.url);
  const client = await rawConnection(port);
  client.write(message("GET / HTTP/1.1", "Host: a"));
  const text = await client.closed();
  expect(text).toContain("half");
  expect(text, "no chunk says that this was all").not.toContain("0\r\n\r\n");
});

test("HTTP/1.0 clients are served", async () => {
  const behind = await echoing();
  const { port } = await gateway(behind.url);
  const client = await rawConnection(port);
  client.write(message("GET /old HTTP/1.0"));
  const text = await client.closed();
  expect(text).toContain('"url":"/old"');
  expect(text).not.toMatch(/transfer-encoding/i);
});

test("logs name no keys, credentials or queries", async () => {
  const behind = await echoing();
  const { url, log, logged } = await gateway(behind.url);
  const headers = { authorization: "Bearer s3cret", "idempotency-key": "k3y" };
  await fetch(`${url}/pay?token=s3cret`, { method: "POST", headers, body: "s3cret" });
  const entry = await logged(({ event }) => event === "request");
  expect(entry).toMatchObject({
    method: "POST",
    path: "/pay",
    status: 200,
    idempotency: "executed",
  });
  expect(JSON.stringify(log)).not.toMatch(/s3cret|k3y/);
});
