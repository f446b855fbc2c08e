// Response headers are no way into the answers of others: what HTTP cannot send is not stored, and
// what was never stored is not sent, whatever a record holds (HTTP-13).

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { constants, deflateRawSync } from "node:zlib";
import { afterEach, describe, expect, test } from "vitest";
import { open } from "../../src/engine/envelope.ts";
import { InvalidOption, RecordUnreadable } from "../../src/errors.ts";
import { httpResult, responseOf } from "../../src/http/response.ts";
import { sqliteStore } from "../../src/stores/sqlite.ts";
import { sqliteDrivers } from "../sqlite-drivers.ts";
import { ADAPTERS, type Application, closeAll, serve } from "./applications.ts";
import { code, lastRequest, line, only, type RawAnswer } from "./raw.ts";

const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  await closeAll();
  for (let cleanup = cleanups.pop(); cleanup; cleanup = cleanups.pop()) await cleanup();
});

const keyed = (key: string) => lastRequest([`Idempotency-Key: ${key}`], "");

/** Headers that a handler tries to send. */
const UNSENDABLE: readonly (readonly [what: string, name: string, value: string])[] = [
  ["a line break", "location", "/a\r\nX-Evil: 1"],
  ["a whole answer", "location", "/a\r\n\r\nHTTP/1.1 200 OK\r\nX-Evil: 1\r\n\r\n"],
  ["a line feed", "etag", '"a"\nX-Evil: 1'],
  ["a carriage return", "etag", '"a"\rX-Evil: 1'],
  ["NUL", "link", "</a\0X-Evil: 1>"],
  ["text beyond Latin-1", "content-disposition", 'attachment; filename="漢.txt"'],
  ["a name with a line break", "x-a\r\nx-evil", "1"],
  ["a name with a colon", "x-evil: 1\r\nx-a", "1"],
  ["a name with a space", "x evil", "1"],
];

/** A stored response: the length of its head, its head, its body. */
function headed(head: unknown, body = "{}"): Buffer {
  const text = Buffer.from(typeof head === "string" ? head : JSON.stringify(head));
  const length = Buffer.alloc(4);
  length.writeUInt32BE(text.length);
  return Buffer.concat([length, text, Buffer.from(body)]);
}

/** Heads that Semel never wrote. */
const TAMPERED: readonly (readonly [what: string, head: unknown])[] = [
  ["a line break in a value", [200, "location", "/a\r\nX-Evil: 1"]],
  ["a line feed in a value", [200, "location", "/a\nX-Evil: 1"]],
  ["a bare carriage return", [200, "location", "/a\rX-Evil: 1"]],
  ["NUL in a value", [200, "location", "/a\0X-Evil"]],
  ["a line break in a name", [200, "x-a\r\nx-evil", "1"]],
  ["a colon in a name", [200, "x-evil: 1, x-a", "1"]],
  ["an empty name", [200, "", "1"]],
  ["text beyond Latin-1", [200, "x-evil", "漢"]],
  ["a cookie", [200, "x-before", "1", "set-cookie", "session=x-evil"]],
  ["a cookie in capitals", [200, "Set-Cookie", "session=x-evil"]],
  ["a length", [200, "content-length", "9999", "x-evil", "1"]],
  ["a transfer coding", [200, "transfer-encoding", "chunked", "x-evil", "1"]],
  ["Connection", [200, "connection", "x-evil"]],
  ["Keep-Alive", [200, "keep-alive", "timeout=x-evil"]],
  ["Upgrade", [200, "upgrade", "x-evil"]],
  ["a trailer's name", [200, "trailer", "x-evil"]],
  ["credentials asked for", [200, "www-authenticate", "x-evil"]],
  ["a date", [200, "date", "x-evil"]],
  ["a state of its own", [200, "idempotency-status", "x-evil"]],
  ["a value that is no text", [200, "x-evil", { a: 1 }]],
  ["a name that is no text", [200, ["x-evil"], "1"]],
  ["a common field that there is not", [200, 9_999]],
  ["a common field before the first", [200, -1]],
  ["a name without a value", [200, "x-evil"]],
  ["an informational status", [101, "x-evil", "1"]],
  ["a status of four digits", [2000]],
  ["a status in text", ["200 OK\r\nX-Evil: 1"]],
  ["an object", '{"status":200,"__proto__":{"x-evil":1}}'],
  ["what is no JSON", "x-evil"],
];

const HTTP_KIND = 1;
const COMPRESSED = 0x20;

/** Envelopes that do not hold what they say. */
const DAMAGED: readonly (readonly [what: string, envelope: Buffer])[] = [
  ["nothing", Buffer.alloc(0)],
  ["another format", Buffer.from([2, HTTP_KIND, ...headed([200])])],
  ["another kind", Buffer.from([1, 9, ...headed([200])])],
  ["what is not compressed", Buffer.from([1, HTTP_KIND | COMPRESSED, ...headed([200])])],
];

function assertHidden(answer: RawAnswer, what: string): void {
  // The pages that frameworks show of errors may name it in their text.
  expect(JSON.stringify(answer.lines).toLowerCase(), what).not.toContain("x-evil");
}

/** An application on a database of its own, whose records can be written to behind its back. */
async function onDatabase(serving: (typeof ADAPTERS)[string]) {
  const folder = await mkdtemp(join(tmpdir(), "semel-security-"));
  const database = sqliteDrivers[0]!.open(join(folder, "semel.db"));
  cleanups.push(() => {
    database.close();
    return rm(folder, { recursive: true, force: true });
  });
  const store = sqliteStore(database, { synchronous: "normal" });
  await store.migrate();
  const application = await serve(serving, {
    store,
    engine: { cache: false },
    http: () => ({ storedHeaders: "*" }),
  });
  const tamper = (key: string, envelope: Buffer) =>
    database.prepare("UPDATE semel_records SET result = ? WHERE key = ?").run(envelope, key);
  return { application, tamper };
}

async function assertUnreadable({ port }: Application, key: string, what: string): Promise<void> {
  const answer = await only(port, keyed(key));
  expect([answer.status, code(answer)], what).toEqual([500, "record-unreadable"]);
  expect(JSON.parse(answer.body), what).toEqual({
    type: "urn:semel:error:record-unreadable",
    title: "Internal Server Error",
    status: 500,
    detail: "The record of this key cannot be read; nothing ran",
    code: "record-unreadable",
    retry: "never",
  });
  assertHidden(answer, what);
}

for (const [name, serving] of Object.entries(ADAPTERS)) {
  describe(`${name}: headers`, () => {
    test("HTTP-13: what HTTP cannot send fails the handler, and is neither sent nor stored", async () => {
      for (const [what, field, value] of UNSENDABLE) {
        const { port, runs } = await serve(serving, {
          http: () => ({ storedHeaders: "*" }),
          answer: (run) => (run === 1 ? { headers: [[field, value]] } : {}),
        });
        const first = await only(port, keyed("k"));
        expect(first.status, what).toBe(500);
        assertHidden(first, what);
        const second = await only(port, keyed("k"));
        expect([second.status, second.body, runs()], what).toEqual([200, '{"run":2}', 2]);
        assertHidden(second, what);
      }
    });

    test("HTTP-13: what HTTP can send is replayed byte for byte, odd names included", async () => {
      const headers = [
        ["x-latin", "caf\xe9 \xff"],
        ["x-tab", "a\tb"],
        ["x-empty", ""],
        ["constructor", "1"],
        ["hasownproperty", "1"],
      ] as const;
      const { port, runs } = await serve(serving, {
        http: () => ({ storedHeaders: "*" }),
        answer: () => ({ headers }),
      });
      for (let n = 0; n < 2; n++) {
        const answer = await only(port, keyed("k"));
        for (const [field, value] of headers) expect(line(answer, field), field).toBe(value);
      }
      expect(runs()).toBe(1);
    });

    test("SM-23b: a record that was tampered with sends nothing of what it holds", async () => {
      const { application, tamper } = await onDatabase(serving);
      const envelopes = [
        ...TAMPERED.map(([what, head]) => [what, enveloped(head)] as const),
        ...DAMAGED,
      ];
      for (const [index, [what, envelope]] of envelopes.entries()) {
        const key = `k${index}`;
        await only(application.port, keyed(key));
        tamper(key, envelope);
        for (let n = 0; n < 2; n++) await assertUnreadable(application, key, what);
        expect(application.runs(), what).toBe(index + 1);
      }
      // What is in order is still replayed, and the next operation runs.
      await only(application.port, keyed("sound"));
      tamper("sound", enveloped([201, "x-good", "1"], "kept"));
      const answer = await only(application.port, keyed("sound"));
      expect([answer.status, line(answer, "x-good"), answer.body]).toEqual([201, "1", "kept"]);
      // CORS headers are another route's, one that asks for them.
      const shared = [201, "x-good", "1", "access-control-allow-origin", "x-evil"];
      tamper("sound", enveloped(shared, "kept"));
      const without = await only(application.port, keyed("sound"));
      expect([without.status, line(without, "x-good"), without.body]).toEqual([201, "1", "kept"]);
      assertHidden(without, "CORS for anybody");
    });
  });
}

function enveloped(head: unknown, body?: string): Buffer {
  return Buffer.concat([Buffer.from([1, HTTP_KIND]), headed(head, body)]);
}

test("SM-23b: a stored result that inflates without end is given up at 1 GiB", {
  timeout: 120_000,
}, async () => {
  // Whole blocks of DEFLATE, one after the other: 4 MB that make 4 GB.
  const block = deflateRawSync(Buffer.alloc(2 ** 20), { finishFlush: constants.Z_FULL_FLUSH });
  const blocks = Array.from({ length: 4_096 }, () => block);
  await expect(
    open(Buffer.from([1, HTTP_KIND | COMPRESSED, ...Buffer.concat(blocks)])),
  ).rejects.toThrow(RecordUnreadable);
});

describe("a result that somebody resolves with", () => {
  test("is refused when HTTP could not send it", () => {
    for (const [what, name, value] of UNSENDABLE) {
      expect(() => httpResult({ headers: [[name, value]] }), what).toThrow(InvalidOption);
    }
    for (const status of [101, 199, 1_000, 200.5, "200", null]) {
      expect(() => httpResult({ status: status as number })).toThrow(InvalidOption);
    }
  });

  test("keeps no cookie, however it is spelt", () => {
    const result = httpResult({
      headers: [
        ["Set-Cookie", "a=1"],
        ["SET-COOKIE", "b=1"],
        ["Connection", "close"],
        ["Access-Control-Allow-Origin", "*"],
        ["X-Kept", "1"],
      ],
    });
    expect(responseOf(result).headers).toEqual([["x-kept", "1"]]);
  });
});
