// Other payloads, and other spellings of the same, made from any body.

import { expect, test } from "vitest";
import {
  canonicalText,
  otherPayload,
  reordered,
  respaced,
  withMember,
} from "../../src/check/payload.ts";

const other = (body: string) => otherPayload(Buffer.from(body))?.toString();

test("another payload has its first number one higher, or its first text longer", () => {
  expect(other('{"name":"a","amount":100,"list":[1]}')).toBe(
    '{"name":"a","amount":101,"list":[1]}',
  );
  expect(other('{"order":{"lines":[],"total":{"cents":5}}}')).toBe(
    '{"order":{"lines":[],"total":{"cents":6}}}',
  );
  expect(other('{"name":"a","ok":true}')).toBe('{"name":"a2","ok":true}');
  expect(other('{"ok":true}')).toBe('{"ok":true,"semelCheck":2}');
  expect(other("{}")).toBe('{"semelCheck":2}');
});

test("of what is no JSON object, the last byte is another", () => {
  expect(other("a=1")).toBe("a=2");
  expect(other("a=b")).toBe("a=1");
  expect(other("[1]")).toBe("[11");
  expect(other("")).toBeUndefined();
});

test("members are added with their number as written, moved, and spaced", () => {
  const body = Buffer.from('{"a":1, "b":{"c":2}}');
  expect(withMember(body, "9007199254740993").toString()).toBe(
    '{"a":1,"b":{"c":2},"semelCheck":9007199254740993}',
  );
  expect(withMember(Buffer.from("{}"), '"x"').toString()).toBe('{"semelCheck":"x"}');
  expect(reordered(body).toString()).toBe('{"b":{"c":2},"a":1}');
  expect(JSON.parse(respaced(body).toString())).toEqual({ a: 1, b: { c: 2 } });
});

test("two spellings of one JSON value mean the same, two values do not", () => {
  const text = (body: string) => canonicalText(Buffer.from(body));
  expect(text('{"a":[1,{"c":2,"b":3}]}')).toBe(text('{ "a": [1, {"b":3, "c":2}] }'));
  expect(text('{"a":1}')).not.toBe(text('{"a":2}'));
  expect(text("\xff")).not.toBe(text("\xfe"));
});
