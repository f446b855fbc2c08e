// Keys, and how they are written (CL-1, CL-3).

import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  assertClientKey,
  headerValue,
  keyOfHeader,
  type RequestIdentity,
  requestDigest,
  uuidV4,
  uuidV7,
} from "../../src/client/keys.ts";
import { keyFromHeader } from "../../src/http/key-header.ts";
import { assertKey } from "../../src/key.ts";

const accepts = (check: (key: unknown) => void, key: unknown) => {
  try {
    check(key);
    return true;
  } catch {
    return false;
  }
};

describe("UUIDs (RFC 9562)", () => {
  test("version 7 has the time in front, to the millisecond", () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 2 ** 48 - 1 }), (nowMs) => {
        const uuid = uuidV7(nowMs);
        expect(uuid).toMatch(
          /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/,
        );
        expect(Number.parseInt(uuid.replaceAll("-", "").slice(0, 12), 16)).toBe(nowMs);
      }),
    );
  });

  test("the time that RFC 9562 §A.6 gives", () => {
    expect(uuidV7(0x017f22e279b0)).toMatch(/^017f22e2-79b0-7/);
  });

  test("version 4", () => {
    expect(uuidV4()).toMatch(
      /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/,
    );
  });

  test("no two are alike", () => {
    const made = Array.from({ length: 10_000 }, (_, index) => (index % 2 ? uuidV4() : uuidV7(1)));
    expect(new Set(made).size).toBe(made.length);
  });
});

describe("the header", () => {
  const key = fc.string({
    unit: fc.integer({ min: 0x20, max: 0x7e }).map((code) => String.fromCharCode(code)),
    minLength: 1,
    maxLength: 255,
  });

  test("every key reaches the server's own parser unchanged (RFC 9651 §4.1.6)", () => {
    fc.assert(
      fc.property(key, (key) => {
        const value = headerValue(key, "string");
        expect(keyFromHeader([value], "Idempotency-Key", true)).toBe(key);
        expect(keyOfHeader(value)).toBe(key);
      }),
    );
  });

  test("a bare key reaches it unchanged, or is refused here", () => {
    fc.assert(
      fc.property(key, (key) => {
        const write = () => headerValue(key, "bare");
        if (!/[ ",]/.test(key)) {
          expect(keyFromHeader([write()], "Idempotency-Key", false)).toBe(key);
        } else expect(write).toThrow(/syntax: "string"/);
      }),
    );
  });

  test("keys are what the engine calls keys", () => {
    fc.assert(
      fc.property(fc.oneof(key, fc.string({ maxLength: 300 }), fc.anything()), (value) => {
        expect(accepts(assertClientKey, value)).toBe(accepts(assertKey, value));
      }),
    );
  });
});

describe("the digest of a request", () => {
  const identity: RequestIdentity = {
    method: "POST",
    url: "https://api.example/a?b=c",
    contentType: "application/json; charset=utf-8",
    body: Buffer.from("{}"),
  };

  test("is the same for what is the same request", async () => {
    const digest = await requestDigest(identity);
    expect(digest).toMatch(/^[0-9a-f]{64}$/);
    for (const same of [
      { ...identity },
      { ...identity, contentType: "Application/JSON" },
      { ...identity, url: "https://api.example/a?b=c#top" },
    ]) {
      expect(await requestDigest(same)).toBe(digest);
    }
  });

  test("differs in each part, and parts do not run into each other", async () => {
    const others = [
      identity,
      { ...identity, method: "PATCH" },
      { ...identity, url: "https://api.example/a?b=d" },
      { ...identity, contentType: "text/plain" },
      { ...identity, body: Buffer.from("{ }") },
      { ...identity, contentType: "", body: Buffer.from("16:application/json{}") },
      { ...identity, method: "POST25:https://api.example/a?b=c" },
    ];
    const digests = await Promise.all(others.map(requestDigest));
    expect(new Set(digests).size).toBe(others.length);
  });
});
