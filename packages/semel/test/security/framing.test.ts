// Requests whose bytes could be read in two ways, and keys that could be overlooked: each is refused,
// or read in one way that is known. What Node's parser refuses is said here as well, so that an
// upgrade which changes it is noticed (HTTP-1).

import { afterEach, describe, expect, test } from "vitest";
import { ADAPTERS, closeAll, serve } from "./applications.ts";
import { code, lastRequest, line, only, request, speak } from "./raw.ts";

afterEach(closeAll);

const START = "POST / HTTP/1.1\r\nHost: a\r\nIdempotency-Key: k\r\n";
/** What an attacker would have taken for a request of its own. */
const HIDDEN =
  "POST /hidden HTTP/1.1\r\nHost: a\r\nIdempotency-Key: hidden\r\nContent-Length: 0\r\n\r\n";

/** Refused by Node's parser before anybody hears of them: 400, and the connection ends. */
const REFUSED: Readonly<Record<string, string>> = {
  "Content-Length before Transfer-Encoding": `${START}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`,
  "Transfer-Encoding before Content-Length": `${START}Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n`,
  "two lengths that differ": `${START}Content-Length: 0\r\nContent-Length: 5\r\n\r\n`,
  "two lengths that agree": `${START}Content-Length: 0\r\nContent-Length: 0\r\n\r\n`,
  "a list of lengths": `${START}Content-Length: 5,5\r\n\r\nhello`,
  "a signed length": `${START}Content-Length: +5\r\n\r\nhello`,
  "a negative length": `${START}Content-Length: -1\r\n\r\n`,
  "a hexadecimal length": `${START}Content-Length: 0x5\r\n\r\nhello`,
  "an exponent": `${START}Content-Length: 1e1\r\n\r\n`,
  "a length of spaces between": `${START}Content-Length: 0 5\r\n\r\n`,
  "no length": `${START}Content-Length:\r\n\r\n`,
  "a length beyond 64 bits": `${START}Content-Length: 18446744073709551616\r\n\r\n`,
  "a folded line": `${START}X-A: b\r\n Content-Length: 5\r\n\r\nhello`,
  "a folded key": `POST / HTTP/1.1\r\nHost: a\r\nIdempotency-Key: k\r\n l\r\nContent-Length: 0\r\n\r\n`,
  "a space before the colon": `${START}Content-Length : 5\r\n\r\nhello`,
  "a space before the key's colon": `POST / HTTP/1.1\r\nHost: a\r\nIdempotency-Key : k\r\n\r\n`,
  "bare line feeds": `POST / HTTP/1.1\nHost: a\nIdempotency-Key: k\nContent-Length: 0\n\n`,
  "a bare carriage return in a value": `${START}X-A: b\rContent-Length: 5\r\n\r\n`,
  "NUL in a value": `${START}X-A: b\0c\r\n\r\n`,
  "NUL in a name": `${START}X\0A: b\r\n\r\n`,
  "a vertical tab after the key": `POST / HTTP/1.1\r\nHost: a\r\nIdempotency-Key: k\x0b\r\n\r\n`,
  "identity after chunked": `${START}Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n`,
  "an unknown coding that ends like chunked": `${START}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n`,
  "another protocol": "POST / HTTQ/1.1\r\nHost: a\r\n\r\n",
  "another major version": "POST / HTTP/3.0\r\nHost: a\r\n\r\n",
  "a control character in the target": "POST /\x01 HTTP/1.1\r\nHost: a\r\n\r\n",
  "a space in the target": "POST /a b HTTP/1.1\r\nHost: a\r\n\r\n",
  "bytes beyond ASCII in the target": "POST /caf\xe9 HTTP/1.1\r\nHost: a\r\n\r\n",
  "an unknown method": "PoST / HTTP/1.1\r\nHost: a\r\n\r\n",
};

/** Chunked bodies that break off: refused, whether or not the head was already read. */
const BAD_CHUNKS: Readonly<Record<string, string>> = {
  "a size that is no number": "zz\r\nhello\r\n0\r\n\r\n",
  "a size with 0x": "0x5\r\nhello\r\n0\r\n\r\n",
  "a negative size": "-5\r\nhello\r\n0\r\n\r\n",
  "a size beyond 64 bits": "fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
  "a space before the size": " 5\r\nhello\r\n0\r\n\r\n",
  "a chunk that is longer than its size": "4\r\nhello\r\n0\r\n\r\n",
  "a chunk that is shorter than its size": "6\r\nhello\r\n0\r\n\r\n",
  "bare line feeds": "5\nhello\n0\n\n",
  "a line feed in an extension": "5;a\nb\r\nhello\r\n0\r\n\r\n",
};

/** Keys that must not count as one, nor go unnoticed. */
const BAD_KEYS: Readonly<Record<string, readonly string[]>> = {
  "two lines": ["Idempotency-Key: a", "Idempotency-Key: b"],
  "the same line twice": ["Idempotency-Key: a", "Idempotency-Key: a"],
  "lines in different cases": ["Idempotency-Key: a", "IDEMPOTENCY-KEY: b"],
  "a line and an empty one": ["Idempotency-Key: a", "Idempotency-Key:"],
  "two in one line": ["Idempotency-Key: a, b"],
  "two Strings in one line": ['Idempotency-Key: "a", "b"'],
};

for (const [name, serving] of Object.entries(ADAPTERS)) {
  describe(`${name}: framing`, () => {
    test.each(Object.entries(REFUSED))(
      "%s is refused, and nothing after it is read",
      async (_, bytes) => {
        const { port, runs, store } = await serve(serving);
        const answers = await speak(port, bytes + HIDDEN);
        expect(answers.map(({ status }) => status)).toEqual([400]);
        expect(runs()).toBe(0);
        expect((await store.list({ limit: 1 })).records).toEqual([]);
      },
    );

    test.each(Object.entries(BAD_CHUNKS))(
      "in a chunked body, %s ends it: nothing runs",
      async (_, chunks) => {
        const { port, runs, store } = await serve(serving);
        const answers = await speak(
          port,
          `${START}Transfer-Encoding: chunked\r\n\r\n${chunks}${HIDDEN}`,
        );
        expect(answers.map(({ status }) => status)).toEqual([400]);
        expect(runs()).toBe(0);
        expect((await store.list({ limit: 1 })).records).toEqual([]);
      },
    );

    test("HTTP-5: a body counts by its bytes, in chunks of any size and with extensions", async () => {
      const { port, runs } = await serve(serving);
      const type = "Content-Type: text/plain";
      const key = "Idempotency-Key: k";
      await only(port, lastRequest([key, type], "hello"));
      const chunked = (chunks: string) =>
        only(port, `${lastRequest([key, type, "Transfer-Encoding: chunked"])}${chunks}`);
      for (const chunks of [
        "5\r\nhello\r\n0\r\n\r\n",
        "0005;a=b\r\nhello\r\n0;c\r\n\r\n",
        '1;a="b"\r\nh\r\n4\r\nello\r\n0\r\n\r\n',
        "5\r\nhello\r\n0\r\nX-Trailer: t\r\nIdempotency-Key: other\r\n\r\n",
      ]) {
        expect(line(await chunked(chunks), "idempotent-replayed"), chunks).toBe("true");
      }
      expect((await chunked("4\r\nhell\r\n0\r\n\r\n")).status).toBe(422);
      expect(runs()).toBe(1);
    });

    test.each(Object.entries(BAD_KEYS))(
      "HTTP-1: of keys, %s are 400 and run nothing",
      async (_, lines) => {
        const { port, runs } = await serve(serving);
        const answer = await only(port, lastRequest(lines, ""));
        expect([answer.status, code(answer)]).toEqual([400, "key-invalid"]);
        expect(runs()).toBe(0);
      },
    );

    test("HTTP-1: a String over two lines is one key where lines are joined, else 400", async () => {
      const { port, runs } = await serve(serving);
      const lines = ['Idempotency-Key: "a', 'Idempotency-Key: b"'];
      const answer = await only(port, lastRequest(lines, ""));
      // `Headers`, and Fastify's, have joined them: RFC 9651 §4.2 reads what is joined.
      const isJoined = name === "fetch";
      expect([answer.status, runs()]).toEqual(isJoined ? [200, 1] : [400, 0]);
      if (!isJoined) return;
      const joined = await only(port, lastRequest(['Idempotency-Key: "a, b"'], ""));
      expect(line(joined, "idempotent-replayed")).toBe("true");
    });

    test("without a host nothing runs", async () => {
      const { port, runs } = await serve(serving);
      const answer = await only(
        port,
        "POST / HTTP/1.1\r\nIdempotency-Key: k\r\nContent-Length: 0\r\n\r\n",
      );
      expect([answer.status, runs()]).toEqual([400, 0]);
    });

    test("an empty Transfer-Encoding is none, and its chunks are no request", async () => {
      const { port, runs } = await serve(serving);
      const answers = await speak(port, `${START}Transfer-Encoding:\r\n\r\n0\r\n\r\n${HIDDEN}`);
      expect(answers.map(({ status }) => status)).toEqual([400]);
      // Node 20 ends the connection at the chunks only, before the request before them is answered.
      expect(runs()).toBeLessThanOrEqual(1);
    });

    test("HTTP-3: a key in the trailers is none", async () => {
      const open = await serve(serving);
      const demanding = await serve(serving, { http: () => ({ required: true }) });
      const bytes = `${lastRequest(["Trailer: Idempotency-Key", "Transfer-Encoding: chunked"])}1\r\nx\r\n0\r\nIdempotency-Key: k\r\n\r\n`;
      for (let n = 1; n <= 2; n++) {
        const answer = await only(open.port, bytes);
        expect([answer.status, line(answer, "idempotency-status")]).toEqual([200, undefined]);
        expect(open.runs()).toBe(n);
      }
      expect(code(await only(demanding.port, bytes))).toBe("key-missing");
      expect(demanding.runs()).toBe(0);
    });

    test("names of JavaScript's own are header names like others", async () => {
      const { port, runs } = await serve(serving);
      const odd = ["__proto__: x", "constructor: x", "toString: x", "hasOwnProperty: x"];
      const answer = await only(port, lastRequest([...odd, "Idempotency-Key: __proto__"], ""));
      expect([answer.status, answer.body]).toEqual([200, '{"run":1}']);
      await only(port, lastRequest(["Idempotency-Key: __proto__"], ""));
      expect(runs()).toBe(1);
    });

    test("HTTP-1: a dash that is an underscore makes another header", async () => {
      const { port, runs } = await serve(serving, { http: () => ({ required: true }) });
      for (const lookalike of [
        "Idempotency_Key: k",
        "Idempotency-Keys: k",
        "X-Idempotency-Key: k",
      ]) {
        expect(code(await only(port, lastRequest([lookalike], "")))).toBe("key-missing");
      }
      expect(runs()).toBe(0);
    });

    test("HTTP-1: Connection that names the key does not take it off", async () => {
      const { port, runs } = await serve(serving);
      for (const status of ["executed", "replayed"]) {
        const lines = ["Connection: close, Idempotency-Key", "Idempotency-Key: k"];
        expect(line(await only(port, request(lines, "")), "idempotency-status")).toBe(status);
      }
      expect(runs()).toBe(1);
    });
  });
}
