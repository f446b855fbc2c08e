// How responses become results and back, and which of their headers do (HTTP-12, HTTP-13).

import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { InvalidOption, RecordUnreadable } from "../../src/errors.ts";
import {
  headerFilter,
  isStoredByDefault,
  responseOf,
  storedResponse,
} from "../../src/http/response.ts";

describe("a stored response", () => {
  test("comes back with its status, headers and bytes", () => {
    const header = fc.tuple(fc.constantFrom("etag", "link", "location"), fc.string());
    fc.assert(
      fc.property(
        fc.integer({ min: 200, max: 599 }),
        fc.array(header),
        fc.uint8Array(),
        (status, headers, body) => {
          const { result } = storedResponse({ status, headers, body }, true, () => true);
          expect(result).toMatchObject({ kind: "http", omitted: false });
          const decoded = responseOf(result);
          expect(decoded).toMatchObject({ status, headers });
          expect(Buffer.from(decoded.body).equals(Buffer.from(body))).toBe(true);
        },
      ),
    );
  });

  test("that was too large keeps its head", () => {
    const response = {
      status: 201,
      headers: [["location", "/a"]],
      body: Buffer.from("x"),
    } as const;
    const { result, remnantBytes } = storedResponse(response, false, () => true);
    expect(result.omitted).toBe(true);
    expect(result.bytes.byteLength).toBe(remnantBytes);
    expect(responseOf(result)).toMatchObject({
      status: 201,
      headers: [["location", "/a"]],
      body: Buffer.alloc(0),
    });
  });

  test("that is damaged is an error, whatever the damage", () => {
    const { result } = storedResponse(
      { status: 200, headers: [], body: Buffer.from("abc") },
      true,
      () => true,
    );
    const { bytes } = result;
    const damaged = [
      new Uint8Array(0),
      bytes.slice(0, 3),
      bytes.slice(0, 6),
      Uint8Array.of(255, 255, 255, 255, ...bytes.slice(4)),
      Uint8Array.of(0, 0, 0, 2, 0x5b, 0x5d),
      Uint8Array.of(0, 0, 0, 4, ...Buffer.from('["x"')),
    ];
    for (const each of damaged) {
      expect(() => responseOf({ ...result, bytes: each })).toThrow(RecordUnreadable);
    }
  });
});

describe("the headers that are stored", () => {
  const NEVER = ["set-cookie", "www-authenticate", "date", "content-length", "transfer-encoding"];

  test("are the allow-list by default, and all but the forbidden with a star", () => {
    const [byDefault, all] = [headerFilter({}), headerFilter({ allow: "*" })];
    for (const name of ["content-type", "location", "etag", "retry-after"]) {
      expect(byDefault(name)).toBe(true);
      expect(all(name)).toBe(true);
    }
    expect(byDefault("x-anything")).toBe(false);
    expect(all("x-anything")).toBe(true);
    for (const name of [...NEVER, "access-control-allow-origin", "idempotency-status"]) {
      expect(byDefault(name)).toBe(false);
      expect(all(name)).toBe(false);
    }
  });

  test("can be added to, but not with what must never be replayed", () => {
    expect(headerFilter({ allow: ["X-Cost"] })("x-cost")).toBe(true);
    for (const name of NEVER)
      expect(() => headerFilter({ allow: [name.toUpperCase()] })).toThrow(InvalidOption);
  });

  test("can be fewer than the usual ones, and CORS headers only where they are asked for", () => {
    const few = headerFilter({ allow: "*", deny: ["Location"], cors: true });
    expect(few("location")).toBe(false);
    expect(few("x-anything")).toBe(true);
    expect(few("access-control-allow-origin")).toBe(true);
    for (const name of NEVER) expect(few(name)).toBe(false);
    expect(
      headerFilter({ deny: ["Access-Control-Max-Age"], cors: true })("access-control-max-age"),
    ).toBe(false);
  });
});

test("the answers that are stored by default are those of HTTP-12", () => {
  const passing = [401, 403, 408, 409, 421, 423, 425, 429];
  for (let status = 100; status < 600; status++) {
    const isStored = status >= 200 && status < 500 && !passing.includes(status);
    expect(isStoredByDefault(status), String(status)).toBe(isStored);
  }
});
