// What makes two requests the same request (HTTP-5).

import { hash } from "node:crypto";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { Names } from "../../src/engine/at-rest.ts";
import { InvalidOption, PayloadInvalid } from "../../src/errors.ts";
import { fingerprinter, isComparable, operationKindOf } from "../../src/fingerprint.ts";
import {
  type Body,
  bodyFingerprinter,
  parseJsonAsWritten,
  type RequestLine,
} from "../../src/http/body-fingerprint.ts";

const REQUEST: RequestLine = { method: "POST", target: "/a", contentType: "application/json" };
const sha256 = (data: string | Uint8Array) => hash("sha256", data, "base64url");
const bytes = (text: string): Body => ({ bytes: Buffer.from(text) });

test("a fingerprint tells whether it is of a request or of a payload, and nothing of others", () => {
  const selections = [{ include: ["/a"] }, { exclude: ["/a"] }, () => 1];
  for (const option of ["bytes", "json", ...selections] as const) {
    expect(operationKindOf(bodyFingerprinter(option)(REQUEST, bytes("{}")))).toBe("http");
  }
  for (const option of [undefined, ...selections]) {
    expect(operationKindOf(fingerprinter(option)({ a: 1 }))).toBe("value");
  }
  expect(operationKindOf("")).toBeUndefined();
  expect(operationKindOf("http:x")).toBeUndefined();
});

describe("the fingerprint of a request", () => {
  const fingerprint = bodyFingerprinter("bytes");

  test("frames its parts, so that none can flow into the next", () => {
    const one = fingerprint({ ...REQUEST, target: "/a1", contentType: "x/y" }, bytes(""));
    const other = fingerprint({ ...REQUEST, target: "/a", contentType: "1x/y" }, bytes(""));
    expect(one).not.toBe(other);
  });

  test("does not know parameters of the media type, nor its case", () => {
    const plain = fingerprint(REQUEST, bytes("{}"));
    for (const contentType of ["Application/JSON; charset=utf-8", " application/json ;a=b"]) {
      expect(fingerprint({ ...REQUEST, contentType }, bytes("{}"))).toBe(plain);
    }
    expect(fingerprint({ ...REQUEST, contentType: undefined }, bytes("{}"))).not.toBe(plain);
  });

  test("differs for any other bytes", () => {
    fc.assert(
      fc.property(fc.uint8Array(), fc.uint8Array(), (one, other) => {
        const isSame = Buffer.from(one).equals(Buffer.from(other));
        const [a, b] = [one, other].map((each) => fingerprint(REQUEST, { bytes: each }));
        expect(a === b).toBe(isSame);
      }),
    );
  });

  test("is a digest of the head and one of the body, however long the body is", () => {
    const head = sha256("4:POST2:/a16:application/json").slice(0, 22);
    for (const length of [0, 1, 100, 16_000, 16_383, 16_384, 100_000]) {
      const body = Buffer.alloc(length, "é");
      const digest = sha256(Buffer.concat([Buffer.from("b"), body]));
      expect(fingerprint(REQUEST, { bytes: body })).toBe(`h1:${head}.b:${digest}`);
    }
  });

  test("of a parsed body is its canonical form, of parsed bytes the bytes", () => {
    const parsed = (value: unknown) => fingerprint(REQUEST, { parsed: value });
    expect(parsed({ a: 1, b: 2 })).toBe(parsed({ b: 2, a: 1 }));
    expect(parsed({ a: 1 })).not.toBe(parsed({ a: "1" }));
    expect(parsed(undefined)).not.toBe(parsed({}));
    expect(parsed(Buffer.from("x"))).toBe(fingerprint(REQUEST, bytes("x")));
  });

  test("can be told apart whatever a body turns out to be", () => {
    const bodies: Body[] = [bytes("{}"), bytes("{"), { parsed: {} }, { parsed: "{" }];
    for (const option of ["bytes", "json"] as const) {
      const digests = bodies.map((body) => bodyFingerprinter(option)(REQUEST, body));
      for (const digest of digests.slice(1)) expect(isComparable(digest, digests[0]!)).toBe(true);
      expect(new Set(digests).size).toBe(bodies.length);
    }
  });

  const OPTIONS = [
    "bytes",
    "json",
    { include: ["/a"] },
    { include: ["/b"] },
    { exclude: ["/a"] },
    () => 1,
  ] as const;

  test("cannot be told apart from that of another option by the body", () => {
    const digests = OPTIONS.map((option) => bodyFingerprinter(option)(REQUEST, bytes("{}")));
    for (const [index, digest] of digests.entries()) {
      for (const other of digests.slice(index + 1)) expect(isComparable(digest, other)).toBe(false);
    }
  });

  test("is told apart from that of another option by everything but the body", () => {
    const heads = [{ method: "PATCH" }, { target: "/b" }, { contentType: "text/plain" }];
    for (const option of OPTIONS) {
      const one = bodyFingerprinter(option)(REQUEST, bytes("{}"));
      for (const another of OPTIONS) {
        for (const head of heads) {
          const other = bodyFingerprinter(another)({ ...REQUEST, ...head }, bytes("{}"));
          expect(isComparable(one, other)).toBe(true);
        }
      }
    }
  });

  test("is one line of ASCII within what stores take, hashed or not", () => {
    const request = { ...REQUEST, target: `/${"a\n".repeat(1_000)}` };
    const names = new Names(Buffer.from("a secret of enough length"));
    for (const option of OPTIONS) {
      const one = bodyFingerprinter(option)(request, bytes("{}"));
      for (const text of [one, names.fingerprint(one)]) {
        expect(text).toMatch(/^[\w:.-]{1,128}$/);
      }
    }
  });

  test("is compared in the same way when it is hashed at rest", () => {
    const names = new Names(Buffer.from("a secret of enough length"));
    const hashed = (option: "bytes" | "json", target: string) =>
      names.fingerprint(bodyFingerprinter(option)({ ...REQUEST, target }, bytes("{}")));
    expect(isComparable(hashed("bytes", "/a"), hashed("json", "/a"))).toBe(false);
    expect(isComparable(hashed("bytes", "/a"), hashed("json", "/b"))).toBe(true);
  });
});

describe("canonical JSON", () => {
  const fingerprint = bodyFingerprinter("json");
  const digest = (text: string) => fingerprint(REQUEST, bytes(text));

  test("is the same for any order of names and any whitespace", () => {
    fc.assert(
      fc.property(
        fc.dictionary(fc.string(), fc.jsonValue(), { noNullPrototype: true }),
        (value) => {
          const turned = Object.fromEntries(Object.entries(value).reverse());
          expect(digest(JSON.stringify(turned, null, 2))).toBe(digest(JSON.stringify(value)));
        },
      ),
    );
  });

  test("keeps numbers that a double cannot hold as they were written", () => {
    expect(digest("9007199254740993")).not.toBe(digest("9007199254740992"));
    expect(digest("0.1")).not.toBe(digest("0.10000000000000000001"));
    expect(digest("1e400")).not.toBe(digest("1e401"));
    expect(digest("-0")).not.toBe(digest("0"));
    expect(digest('["1e400"]')).not.toBe(digest("[1e400]"));
  });

  test("cannot be forged by names that look like its tags", () => {
    const forms = [
      "1.0",
      '{"$number":"1.0"}',
      '{"$$number":"1.0"}',
      '{"\\u0024number":1.0}',
      '{"$number":{"$number":"1.0"}}',
      '{"$bigint":"1"}',
    ];
    expect(new Set(forms.map(digest)).size).toBe(forms.length);
    expect(digest('{"\\u0024number":"1.0"}')).toBe(digest('{"$number":"1.0"}'));
  });

  test("reads what JSON.parse reads, and refuses what it refuses", () => {
    fc.assert(
      fc.property(fc.json(), (text) => {
        expect(parseJsonAsWritten(text.replaceAll("$", ""))).toBeDefined();
      }),
    );
    for (const text of ["", "{", "01", "[1.]", "'a'", '{"a":1,}', '"\\x"', "NaN"]) {
      expect(() => parseJsonAsWritten(text)).toThrow(SyntaxError);
    }
  });

  test("falls back to the bytes where there is none", () => {
    for (const body of ["{broken", '{"lone":"\\ud800"}', "[".repeat(300) + "]".repeat(300)]) {
      expect(digest(body)).toBe(digest(body));
      expect(digest(body)).not.toBe(digest(`${body} `));
    }
    const invalid = { bytes: Uint8Array.of(0x22, 0xff, 0x22) };
    expect(fingerprint(REQUEST, invalid)).not.toBe(digest('"\ufffd"'));
  });

  test("is read of every JSON media type, and of no other", () => {
    for (const [contentType, counts] of [
      ["application/json", true],
      ["application/vnd.api+json; charset=utf-8", true],
      ["application/problem+json", true],
      ["text/plain", false],
      ["application/jsonp", false],
    ] as const) {
      const request = { ...REQUEST, contentType };
      const [one, other] = ['{"a":1}', '{ "a": 1 }'].map((text) =>
        fingerprint(request, bytes(text)),
      );
      expect(one === other, contentType).toBe(counts);
    }
  });
});

describe("a selection of the body", () => {
  test("by a function gets plain JSON, the fields of a form, or bytes", () => {
    const seen: unknown[] = [];
    const fingerprint = bodyFingerprinter((payload) => {
      seen.push(payload);
      return 1;
    });
    fingerprint(REQUEST, bytes('{"amount":100.50,"id":9007199254740993}'));
    const form = { ...REQUEST, contentType: "application/x-www-form-urlencoded" };
    fingerprint(form, bytes("a=1&a=2&b=%20"));
    fingerprint({ ...REQUEST, contentType: "text/plain" }, bytes("x"));
    fingerprint(REQUEST, bytes("{broken"));
    expect(seen[0]).toEqual({ amount: 100.5, id: 9007199254740992 });
    expect(seen[1]).toEqual({ a: ["1", "2"], b: [" "] });
    expect(seen.slice(2)).toEqual([Buffer.from("x"), Buffer.from("{broken")]);
  });

  test("that has no canonical form is the caller's error", () => {
    const fingerprint = bodyFingerprinter(() => Number.NaN);
    expect(() => fingerprint(REQUEST, bytes("{}"))).toThrow(PayloadInvalid);
  });

  test("must be one", () => {
    expect(() => bodyFingerprinter("body" as never)).toThrow(InvalidOption);
    expect(() => bodyFingerprinter({ include: [] })).toThrow(InvalidOption);
  });
});
