// Whatever bytes a client sends, the service behind sees the requests that the client made, whole and
// as they were keyed, or none: no body becomes a request, and no key or credential gets lost (GW-3).

import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { cleanUp, type GatewayProcess, gateway } from "../processes.ts";
import { rawConnection } from "../raw-http.ts";
import { type RecordingUpstream, recordingUpstream } from "./recording-upstream.ts";

let behind: RecordingUpstream;
let front: GatewayProcess;
beforeAll(async () => {
  behind = await recordingUpstream();
  front = await gateway(behind.url, "--max-body", "64k");
});
afterEach(() => {
  behind.seen.length = 0;
});
afterAll(cleanUp);

const SMUGGLED =
  "POST /smuggled HTTP/1.1\r\nHost: a\r\nIdempotency-Key: s\r\nContent-Length: 0\r\n\r\n";
const lines = (count: number) => "a:\r\n".repeat(count);
const post = (path: string, head: string, body = "") =>
  `POST ${path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n${head}\r\n\r\n${body}`;
const chunk = (text: string, extension = "") =>
  `${text.length.toString(16)}${extension}\r\n${text}\r\n`;
const keyed = (key: string) => `Authorization: Bearer a\r\nIdempotency-Key: ${key}\r\n`;

interface Attempt {
  bytes: string;
  /** Status of every answer. */
  statuses: readonly number[];
  /** Path and body, framing taken off, of every request that gets behind. */
  behind: readonly (readonly [path: string, body: string])[];
}

const PLAIN: Readonly<Record<string, Attempt>> = {
  "a request in a body": {
    bytes: post("/a", `Content-Length: ${SMUGGLED.length}`, SMUGGLED),
    statuses: [200],
    behind: [["/a", SMUGGLED]],
  },
  "a request in a body whose length comes behind 1,100 lines": {
    bytes: post("/b", `${lines(1_100)}Content-Length: ${SMUGGLED.length}`, SMUGGLED),
    statuses: [200],
    behind: [["/b", SMUGGLED]],
  },
  "a request in a keyed body whose length comes behind 1,100 lines": {
    bytes: post("/c", `${keyed("c")}${lines(1_100)}Content-Length: ${SMUGGLED.length}`, SMUGGLED),
    statuses: [200],
    behind: [["/c", SMUGGLED]],
  },
  "a request in chunks whose coding comes behind 1,100 lines": {
    bytes: post("/d", `${lines(1_100)}Transfer-Encoding: chunked`, `${chunk(SMUGGLED)}0\r\n\r\n`),
    statuses: [200],
    behind: [["/d", chunk(SMUGGLED)]],
  },
  "a request in keyed chunks": {
    bytes: post("/e", `${keyed("e")}Transfer-Encoding: chunked`, `${chunk(SMUGGLED)}0\r\n\r\n`),
    statuses: [200],
    behind: [["/e", SMUGGLED]],
  },
  "extensions of chunks": {
    bytes: post(
      "/f",
      `${keyed("f")}Transfer-Encoding: chunked`,
      `${chunk("ab", ';x="y"')}${chunk("c", ";POST=smuggled")}0;z\r\n\r\n`,
    ),
    statuses: [200],
    behind: [["/f", "abc"]],
  },
  "an absolute target": {
    bytes: `POST http://other.test/h?x=1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n${keyed("h")}Content-Length: 1\r\n\r\nx`,
    statuses: [200],
    behind: [["/h?x=1", "x"]],
  },
  "a target that begins like a host": {
    bytes: post("//other.test/i", "Content-Length: 0"),
    statuses: [200],
    behind: [["//other.test/i", ""]],
  },
  "a body on GET": {
    bytes: `GET /j HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: ${SMUGGLED.length}\r\n\r\n${SMUGGLED}`,
    statuses: [200],
    behind: [["/j", SMUGGLED]],
  },
  "a length that Connection names": {
    bytes: `POST /k HTTP/1.1\r\nHost: a\r\nConnection: close, content-length, transfer-encoding\r\n${keyed("k")}Content-Length: ${SMUGGLED.length}\r\n\r\n${SMUGGLED}`,
    statuses: [200],
    behind: [["/k", SMUGGLED]],
  },
  "a body beyond the bound that holds a request": {
    bytes: post("/l", `${keyed("l")}Content-Length: 70000`, SMUGGLED.padEnd(70_000, "x")),
    statuses: [413],
    behind: [],
  },
};

const REFUSED: Readonly<Record<string, readonly [bytes: string, status: number]>> = {
  "two lengths, one of them behind 1,100 lines": [
    post("/", `Content-Length: 0\r\n${lines(1_100)}Content-Length: 5`),
    400,
  ],
  "a coding behind a length and 1,100 lines": [
    post("/", `Content-Length: 5\r\n${lines(1_100)}Transfer-Encoding: chunked`, "0\r\n\r\n"),
    400,
  ],
  "two codings, one of them behind 1,100 lines": [
    post(
      "/",
      `Transfer-Encoding: chunked\r\n${lines(1_100)}Transfer-Encoding: chunked`,
      "0\r\n\r\n",
    ),
    400,
  ],
  "two hosts, one of them behind 1,100 lines": [post("/", `${lines(1_100)}Host: b`), 400],
  "an empty coding": [post("/", "Transfer-Encoding:", "0\r\n\r\n"), 501],
  "chunked, identity": [post("/", "Transfer-Encoding: chunked, identity", "0\r\n\r\n"), 400],
  xchunked: [post("/", "Transfer-Encoding: xchunked", "0\r\n\r\n"), 501],
  "chunked after a vertical tab": [post("/", "Transfer-Encoding: \x0bchunked", "0\r\n\r\n"), 400],
  "a length after a no-break space": [post("/", "Content-Length: \xa05", "hello"), 400],
  "5,5": [post("/", "Content-Length: 5,5", "hello"), 400],
  "a space before the colon of a length": [post("/", "Content-Length : 5", "hello"), 400],
  "keys in two lines": [
    post("/", `${keyed("a")}${lines(1_100)}Idempotency-Key: b\r\nContent-Length: 0`),
    400,
  ],
  "a key, but credentials in two lines": [
    post("/", `${keyed("a")}${lines(1_100)}Authorization: Bearer b\r\nContent-Length: 0`),
    401,
  ],
  "a length in the trailers": [
    post(
      "/",
      `${keyed("t")}Transfer-Encoding: chunked`,
      `${chunk("x")}0\r\nContent-Length: 9\r\n\r\n`,
    ),
    400,
  ],
  "a coding in the trailers": [
    post(
      "/",
      `${keyed("t")}Transfer-Encoding: chunked`,
      `${chunk("x")}0\r\nTransfer-Encoding: chunked\r\n\r\n`,
    ),
    400,
  ],
  "chunk sizes beyond 64 bits": [
    post("/", `${keyed("x")}Transfer-Encoding: chunked`, `1${"0".repeat(16)}\r\nx`),
    400,
  ],
};

async function speak(bytes: string): Promise<number[]> {
  const client = await rawConnection(front.port);
  client.write(bytes);
  const text = await client.closed();
  return [...text.matchAll(/HTTP\/1\.1 (\d{3}) /g)].map(([, status]) => Number(status));
}

/** A request of a well-meant client: it is the next that gets behind. */
async function assertNextIsOwn(): Promise<void> {
  behind.seen.length = 0;
  expect(await speak(post("/next", "Content-Length: 0"))).toEqual([200]);
  expect(behind.seen.map(({ line }) => line)).toEqual(["POST /next HTTP/1.1"]);
}

describe("what gets behind the gateway", () => {
  test.each(Object.entries(PLAIN))("%s stays what it is", async (_, attempt) => {
    expect(await speak(attempt.bytes)).toEqual(attempt.statuses);
    const seen = behind.seen.map(({ line, body }) => [line.split(" ")[1], body]);
    expect(seen).toEqual(attempt.behind);
    await assertNextIsOwn();
  });

  test.each(Object.entries(REFUSED))("%s: refused, with all that follows", async (_, refused) => {
    const before = behind.bytes().length;
    const [bytes, status] = refused;
    // Where the request itself is sound, only it is refused.
    const isSound = status === 401 || bytes.includes("Idempotency-Key: b");
    const statuses = await speak(isSound ? bytes : bytes + SMUGGLED);
    // Newer versions of Node refuse by themselves what the gateway refuses with 501.
    expect(statuses).toHaveLength(1);
    expect(status === 501 ? [400, 501] : [status]).toContain(statuses[0]);
    expect(behind.bytes().length - before, "bytes that got behind").toBe(0);
    await assertNextIsOwn();
  });

  test("the key, the credential and the attempt get behind, however many lines come before", async () => {
    const head = `${lines(3_000)}${keyed("late")}Content-Length: 1`;
    expect(await speak(post("/late", head, "x"))).toEqual([200]);
    expect(await speak(post("/late", head, "x"))).toEqual([200]);
    expect(behind.seen).toHaveLength(1);
    const own = behind.seen[0]!.fields.filter((field) => !field.startsWith("a:"));
    expect(own).toContain("Idempotency-Key: late");
    expect(own).toContain("Authorization: Bearer a");
    expect(own).toContain("Idempotency-Attempt: 1");
    expect(own.filter((field) => /^(content-length|transfer-encoding):/i.test(field))).toEqual([
      "Content-Length: 1",
    ]);
  });

  test("Connection can take neither the key nor the credential off, nor let them pass unkeyed", async () => {
    const head = `POST /hop HTTP/1.1\r\nHost: a\r\nConnection: close, Idempotency-Key, Authorization\r\n${keyed("hop")}Content-Length: 0\r\n\r\n`;
    for (let n = 0; n < 2; n++) expect(await speak(head)).toEqual([200]);
    expect(behind.seen).toHaveLength(1);
    expect(behind.seen[0]!.fields).toContain("Idempotency-Key: hop");
    expect(behind.seen[0]!.fields).toContain("Authorization: Bearer a");
  });

  test("a key in the trailers gets nowhere", async () => {
    const bytes = post(
      "/trailer",
      "Trailer: Idempotency-Key\r\nTransfer-Encoding: chunked",
      `${chunk("x")}0\r\nIdempotency-Key: t\r\n\r\n`,
    );
    for (let n = 0; n < 2; n++) expect(await speak(bytes)).toEqual([200]);
    expect(behind.seen, "it is no operation").toHaveLength(2);
    expect(JSON.stringify(behind.seen)).not.toMatch(/idempotency-key/i);
  });
});
