// Results in their envelope: out comes what went in, or an error.

import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { open, type ResultKind, seal } from "../src/engine/envelope.ts";

const result = fc.record({
  kind: fc.constantFrom<ResultKind[]>("value", "http", "failure"),
  omitted: fc.boolean(),
  bytes: fc.oneof(
    fc.uint8Array({ maxLength: 100 }),
    fc.uint8Array({ minLength: 4_090, maxLength: 9_000 }),
    fc.nat(20_000).map((length) => new Uint8Array(length).fill(7)),
  ),
});

describe("the envelope of results", () => {
  test("gives back what was put in, compressed or not", async () => {
    await fc.assert(
      fc.asyncProperty(result, async (given) => {
        const opened = await open(await seal(given));
        expect({ ...opened, bytes: Buffer.from(opened.bytes).toString("hex") }).toEqual({
          ...given,
          bytes: Buffer.from(given.bytes).toString("hex"),
        });
      }),
      { numRuns: 300 },
    );
  });

  test("compresses from 4 KiB on, and only where it helps", async () => {
    const sealed = async (bytes: Uint8Array) =>
      (await seal({ kind: "value", omitted: false, bytes })).byteLength;
    expect(await sealed(new Uint8Array(4_095))).toBe(4_097);
    expect(await sealed(new Uint8Array(4_096))).toBeLessThan(100);
    const noise = crypto.getRandomValues(new Uint8Array(8_192));
    expect(await sealed(noise)).toBe(8_194);
  });

  test("is a copy: what happens to the bytes later does not reach it", async () => {
    const bytes = Uint8Array.of(1, 2);
    const envelope = await seal({ kind: "value", omitted: false, bytes });
    bytes[0] = 9;
    expect((await open(envelope)).bytes[0]).toBe(1);
  });

  test("never opens damaged bytes as something else than a result or an error", async () => {
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ maxLength: 40 }), async (bytes) => {
        const opened = async () => open(bytes);
        await opened().then(
          ({ kind }) => expect(["value", "http", "failure"]).toContain(kind),
          (error) => expect(error).toMatchObject({ code: "record-unreadable" }),
        );
      }),
      { numRuns: 1_000 },
    );
  });
});
