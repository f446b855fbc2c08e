// HTTP-17: entity tags by RFC 9110 §8.8.3: made, read from lists, compared.

import { createHash } from "node:crypto";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  type EntityTag,
  matchesStrongly,
  matchesWeakly,
  parseEntityTag,
  parseEntityTags,
} from "../../src/conditional/entity-tag.ts";
import { etag, etagOf, weakEtag } from "../../src/conditional/index.ts";

const CHARACTERS = Array.from({ length: 256 }, (_, code) => String.fromCharCode(code)).filter(
  (character) => /[\x21\x23-\x7e\x80-\xff]/.test(character),
);
const opaque = fc.array(fc.constantFrom(...CHARACTERS)).map((all) => all.join(""));
const tag: fc.Arbitrary<EntityTag> = fc.record({ weak: fc.boolean(), opaque });
const blanks = fc.stringMatching(/^[ \t]{0,3}$/);
const written = ({ weak, opaque: text }: EntityTag) => `${weak ? "W/" : ""}"${text}"`;

describe("entity tags (HTTP-17)", () => {
  test("are made of versions and of bytes, with their quotes", () => {
    expect(etag(7)).toBe('"7"');
    expect(etag(9_007_199_254_740_993n)).toBe('"9007199254740993"');
    expect(etag("2026-01-02T03:04:05.678Z")).toBe('"2026-01-02T03:04:05.678Z"');
    expect(weakEtag(7)).toBe('W/"7"');
    const digest = createHash("sha256").update("grüße").digest("base64url");
    expect(etagOf("grüße")).toBe(`"${digest}"`);
    expect(etagOf(Buffer.from("grüße"))).toBe(`"${digest}"`);
    expect(etagOf(new Uint8Array(0))).not.toBe(etagOf("0"));
  });

  test.each(["", 'a"b', "a b", "a\n", "\x7f", "€", Number.NaN, null, undefined, {}, new Date()])(
    "are not made of %j",
    (version) => {
      expect(() => etag(version as string)).toThrow(/visible characters/);
      expect(() => weakEtag(version as string)).toThrow(/visible characters/);
    },
  );

  test("of any text that they can hold are read as they were made", () => {
    fc.assert(
      fc.property(opaque.filter(Boolean), (text) => {
        expect(parseEntityTag(etag(text))).toEqual({ weak: false, opaque: text });
        expect(parseEntityTag(weakEtag(text))).toEqual({ weak: true, opaque: text });
      }),
    );
  });

  test("in a list are all read, whatever is within their quotes and between them", () => {
    const element = fc.tuple(blanks, fc.option(tag), blanks);
    fc.assert(
      fc.property(fc.array(element, { minLength: 1 }), (elements) => {
        const value = elements
          .map(([before, one, after]) => `${before}${one ? written(one) : ""}${after}`)
          .join(",");
        const tags = elements.flatMap(([, one]) => (one ? [one] : []));
        const parsed = parseEntityTags(value);
        if (tags.length === 0) expect(parsed.kind).toBe("malformed");
        else expect(parsed).toEqual({ kind: "tags", tags });
      }),
    );
  });

  test("are never read from what is not a list of them", () => {
    const noise = fc.oneof(fc.string(), fc.stringMatching(/^[W/"*, \ta]{0,12}$/));
    fc.assert(
      fc.property(noise, (value) => {
        const parsed = parseEntityTags(value);
        // The grammar of RFC 9110 §8.8.3 and §5.6.1.2, written another way.
        const one = String.raw`(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"`;
        const isList = new RegExp(`^[ \t]*(?:${one})?[ \t]*(?:,[ \t]*(?:${one})?[ \t]*)*$`);
        const isTags =
          /^[ \t]*\*[ \t]*$/.test(value) || (isList.test(value) && value.includes('"'));
        expect(parsed.kind).toBe(isTags ? "tags" : "malformed");
      }),
      { numRuns: 2_000 },
    );
  });

  test("`*` stands alone", () => {
    expect(parseEntityTags(" * ")).toEqual({ kind: "tags", tags: "*" });
    for (const value of ['*, "a"', '"a", *', "*,*", "**"]) {
      expect(parseEntityTags(value).kind, value).toBe("malformed");
    }
    expect(parseEntityTags('"*"')).toEqual({
      kind: "tags",
      tags: [{ weak: false, opaque: "*" }],
    });
  });

  test.each([
    "",
    " ",
    ",",
    "abc",
    '"abc',
    'abc"',
    '"a" "b"',
    '"a"b',
    'w/"a"',
    'W/ "a"',
    "W/a",
    '"a b"',
    '"a\x7f"',
    "'a'",
  ])("%j is malformed", (value) => {
    expect(parseEntityTags(value)).toMatchObject({ kind: "malformed" });
  });

  test("a long malformed value is refused in time that grows with its length", () => {
    for (const piece of [" ", ",", '"', '" ', 'W/"', "\t,"]) {
      expect(parseEntityTags(`${piece.repeat(200_000)}x`).kind).toBe("malformed");
    }
  });

  test.each([
    ['W/"1"', 'W/"1"', false, true],
    ['W/"1"', 'W/"2"', false, false],
    ['W/"1"', '"1"', false, true],
    ['"1"', '"1"', true, true],
  ])("%s and %s compare as the table of §8.8.3.2 says", (one, other, strongly, weakly) => {
    const [first, second] = [parseEntityTag(one)!, parseEntityTag(other)!];
    expect(matchesStrongly(first, second)).toBe(strongly);
    expect(matchesStrongly(second, first)).toBe(strongly);
    expect(matchesWeakly(first, second)).toBe(weakly);
    expect(matchesWeakly(second, first)).toBe(weakly);
  });

  test("what matches strongly matches weakly, and both ways round", () => {
    const near = fc.record({ weak: fc.boolean(), opaque: fc.constantFrom("", "a", "A", "ab") });
    fc.assert(
      fc.property(near, near, (one, other) => {
        expect(matchesWeakly(one, other)).toBe(one.opaque === other.opaque);
        const strongly = matchesStrongly(one, other);
        expect(strongly).toBe(written(one) === written(other) && !one.weak);
        expect(matchesStrongly(other, one)).toBe(strongly);
      }),
    );
  });
});
