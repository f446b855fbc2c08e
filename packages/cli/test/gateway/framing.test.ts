// No request is smuggled past the gateway: what two parsers could read in two ways is refused, and
// the upstream never hears of it (GW-3).

import { afterEach, expect, test } from "vitest";
import { cleanUp, gateway, upstream } from "../processes.ts";
import { rawConnection } from "../raw-http.ts";

afterEach(cleanUp);

const SMUGGLED = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
const POST = "POST / HTTP/1.1\r\nHost: a\r\n";

const AMBIGUOUS: Record<string, string> = {
  "Content-Length beside Transfer-Encoding": `${POST}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n${SMUGGLED}`,
  "Transfer-Encoding beside Content-Length": `${POST}Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n${SMUGGLED}`,
  "two lengths that differ": `${POST}Content-Length: 0\r\nContent-Length: 5\r\n\r\n${SMUGGLED}`,
  "two equal lengths": `${POST}Content-Length: 0\r\nContent-Length: 0\r\n\r\n${SMUGGLED}`,
  "a list of lengths": `${POST}Content-Length: 0, 0\r\n\r\n${SMUGGLED}`,
  "a signed length": `${POST}Content-Length: +0\r\n\r\n${SMUGGLED}`,
  "a hexadecimal length": `${POST}Content-Length: 0x5\r\n\r\n${SMUGGLED}`,
  "a folded line": `${POST}X-A: b\r\n Content-Length: 5\r\n\r\n${SMUGGLED}`,
  "a folded Transfer-Encoding": `${POST}Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n${SMUGGLED}`,
  "a space before the colon": `${POST}Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n${SMUGGLED}`,
  "a bare line feed": `POST / HTTP/1.1\nHost: a\nContent-Length: 0\n\n${SMUGGLED}`,
  "a carriage return in a value": `${POST}X-A: b\rTransfer-Encoding: chunked\r\n\r\n${SMUGGLED}`,
  "an encoding besides chunked": `${POST}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n${SMUGGLED}`,
  "an encoding other than chunked": `${POST}Transfer-Encoding: identity\r\n\r\n${SMUGGLED}`,
  "chunked twice": `${POST}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n${SMUGGLED}`,
  "a quoted chunked": `${POST}Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n${SMUGGLED}`,
  "chunked in HTTP/1.0": `POST / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n${SMUGGLED}`,
  "two hosts": `GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n${SMUGGLED}`,
  "no host": `GET / HTTP/1.1\r\n\r\n${SMUGGLED}`,
  "another version": `GET / HTTP/2.0\r\nHost: a\r\n\r\n${SMUGGLED}`,
  "a fragment in the target": `GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n${SMUGGLED}`,
  "credentials in the target": `GET http://a@b/ HTTP/1.1\r\nHost: a\r\n\r\n${SMUGGLED}`,
  "an asterisk with another method": `GET * HTTP/1.1\r\nHost: a\r\n\r\n${SMUGGLED}`,
};

for (const [what, bytes] of Object.entries(AMBIGUOUS)) {
  test(`${what} is refused, and ends the connection`, async () => {
    let reached = 0;
    const behind = await upstream((_request, response) => {
      reached++;
      response.end();
    });
    const { port } = await gateway(behind.url);
    const client = await rawConnection(port);
    client.write(bytes);
    const text = await client.closed();
    expect(text).toMatch(/^HTTP\/1\.1 (400|501|505) /);
    expect(text.match(/^HTTP\/1\.1 /gm), "one answer: what followed was not read").toHaveLength(1);
    expect(reached).toBe(0);
  });
}

test("a bad chunk ends the connection, and the upstream never has a whole request", async () => {
  let whole = 0;
  const behind = await upstream((request, response) => {
    request.resume();
    request.on("end", () => {
      whole++;
      response.end();
    });
  });
  const { port, url } = await gateway(behind.url);
  for (const key of ["", "Idempotency-Key: k\r\nAuthorization: x\r\n"]) {
    const client = await rawConnection(port);
    client.write(`${POST}${key}Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\nzz\r\n${SMUGGLED}`);
    expect(await client.closed()).toMatch(/^HTTP\/1\.1 400 |^$/);
  }
  expect(whole).toBe(0);
  expect((await fetch(url)).status, "and it goes on serving").toBe(200);
});

test("an operation's chunked body goes on with its length", async () => {
  const seen: unknown[] = [];
  const behind = await upstream(async (request, response) => {
    let body = "";
    for await (const chunk of request) body += chunk;
    const { "content-length": length, "transfer-encoding": encoding } = request.headers;
    seen.push({ body, length, encoding });
    response.end();
  });
  const { port } = await gateway(behind.url, "--scope", "shared");
  const client = await rawConnection(port);
  client.write(`${POST}Idempotency-Key: k\r\nTransfer-Encoding: Chunked\r\n\r\n`);
  client.write("3;name=value\r\nabc\r\n2\r\nde\r\n0\r\nX-Trailer: t\r\n\r\n");
  await client.until("\r\n\r\n");
  expect(seen).toEqual([{ body: "abcde", length: "5", encoding: undefined }]);
});

test("Connection takes no header off that the gateway relies upon", async () => {
  const seen: unknown[] = [];
  const behind = await upstream((request, response) => {
    const { "idempotency-key": key, authorization, "content-length": length } = request.headers;
    seen.push({ key, authorization, account: request.headers["x-account"], length });
    request.resume().on("end", () => response.end());
  });
  const { port } = await gateway(behind.url, "--scope", "header:X-Account");
  const client = await rawConnection(port);
  client.write(
    `${POST}Connection: Idempotency-Key, Authorization, X-Account, Content-Length, Idempotency-Attempt\r\n` +
      "Idempotency-Key: k\r\nAuthorization: x\r\nX-Account: a\r\nContent-Length: 2\r\n\r\nok",
  );
  await client.until("executed");
  expect(seen).toEqual([{ key: "k", authorization: "x", account: "a", length: "2" }]);
});
