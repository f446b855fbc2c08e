// The parts that the memory store packs completed records with, each against something simple.

import { createHash } from "node:crypto";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { CrashPolicy } from "../../src/store.ts";
import { Archive } from "../../src/stores/memory-archive.ts";
import { ExpiryQueue } from "../../src/stores/memory-column.ts";
import { SlotIndex } from "../../src/stores/memory-index.ts";
import { type CompletedRecord, PackedRecord, Packer } from "../../src/stores/memory-packing.ts";
import { SLAB_BYTES, Slab } from "../../src/stores/memory-slabs.ts";

const hexDigits = (length: number) =>
  fc.uint8Array({ minLength: length / 2, maxLength: length / 2 }).map(hexOf);
const digest = fc.uint8Array({ minLength: 32, maxLength: 32 }).map(base64urlOf);
/** Every form that is packed, and what nearly has one. */
const text = fc.oneof(
  fc.string({ unit: "binary", maxLength: 300 }).filter((string) => string.isWellFormed()),
  fc.uuid(),
  fc.uuid().map((uuid) => uuid.toUpperCase()),
  hexDigits(32),
  hexDigits(32).map((hex) => hex.toUpperCase()),
  digest,
  digest.map((digits) => `v1:${digits}`),
  // Not what 32 bytes are written as: the last digit has bits to spare.
  digest.map((digits) => `v1:${digits.slice(0, -1)}_`),
  digest.map((digits) => `${digits}=`),
);
const wholeNumber = fc.oneof(fc.nat(300), fc.nat(), fc.maxSafeNat());
const completedRecord: fc.Arbitrary<CompletedRecord> = fc
  .record({
    id: hexDigits(32),
    owner: text,
    fingerprint: text,
    scope: text,
    key: text,
    attempt: wholeNumber,
    crashes: fc.nat(2 ** 30),
    onCrash: fc.constantFrom<CrashPolicy>("rerun", "hold", "probe"),
    createdAt: fc.nat(2 ** 47),
    took: fc.oneof(fc.nat(1_000), fc.nat(2 ** 45)),
  })
  .map(({ took, ...record }) => ({ ...record, updatedAt: record.createdAt + took }));

describe("packing", () => {
  test("a record of any content comes back as it was, between others", () => {
    const packer = new Packer();
    const result = fc.uint8Array({ maxLength: 200 });
    fc.assert(
      fc.property(fc.array(fc.tuple(completedRecord, result), { minLength: 1 }), (items) => {
        const slab = new Slab(items.length * 10_000);
        for (const [record, bytes] of items) {
          const packed = packer.pack(record, record.updatedAt, bytes.length);
          slab.bytes.set(packed, slab.used);
          slab.bytes.set(bytes, slab.used + packed.length);
          slab.used += packed.length + bytes.length;
        }
        let offset = 0;
        for (const [record, bytes] of items) {
          const packed = new PackedRecord(slab, offset);
          expect(plain(packed)).toEqual(record);
          expect(packed.result()).toEqual(bytes);
          offset += packed.length;
        }
        expect(offset).toBe(slab.used);
      }),
    );
  });

  test("digests and UUIDs take the bytes that they stand for", () => {
    const [record] = fc.sample(completedRecord, { numRuns: 1, seed: 1 });
    const usual = {
      ...record!,
      attempt: 1,
      crashes: 0,
      owner: "0f".repeat(16),
      fingerprint: `v1:${base64urlOf(new Uint8Array(32))}`,
      scope: "tenant-1",
      key: "4b8e1f6c-9d53-4c1e-8a77-0f2b6d9c3e41",
    };
    expect(new Packer().pack(usual, usual.createdAt + 20, 200).length).toBeLessThan(
      16 + 16 + 35 + 8 + 16 + 20,
    );
  });
});

describe("expiry queue", () => {
  test("gives items in the order of their ends, whatever was moved or taken out", () => {
    const change = fc.tuple(fc.nat(40), fc.oneof(fc.nat(1_000), fc.constant(null)));
    fc.assert(
      fc.property(fc.array(change, { maxLength: 300 }), (changes) => {
        const queue = new ExpiryQueue();
        const model = new Map<number, number>();
        for (const [item, end] of changes) {
          if (end === null) {
            queue.delete(item);
            model.delete(item);
          } else {
            queue.set(item, end);
            model.set(item, end);
          }
        }
        for (const [item, end] of model) expect(queue.endOf(item)).toBe(end);
        const ends = [...model.values()].sort((a, b) => a - b);
        for (const end of ends) {
          expect(queue.expired(end - 1)).toBeUndefined();
          const item = queue.expired(end)!;
          expect(model.get(item)).toBe(end);
          queue.delete(item);
        }
        expect(queue.expired(Number.POSITIVE_INFINITY)).toBeUndefined();
      }),
    );
  });
});

describe("slot index", () => {
  test("finds what is there and nothing else, through growth and removal", () => {
    const words = (slot: number) => new Uint32Array([slot % 7, slot, 0, slot * 2 ** 20]);
    const index = new SlotIndex({ word: (slot, word) => words(slot)[word]! });
    const present = new Set<number>();
    const toggles = fc.array(fc.nat(3_000), { minLength: 5_000, maxLength: 10_000 });
    fc.assert(
      fc.property(toggles, (slots) => {
        for (const slot of slots) {
          if (present.delete(slot)) index.delete(slot);
          else {
            present.add(slot);
            index.add(slot);
          }
        }
        for (let slot = 0; slot <= 3_000; slot++) {
          expect(index.find(words(slot))).toBe(present.has(slot) ? slot : undefined);
        }
      }),
      { numRuns: 20 },
    );
  });
});

describe("archive", () => {
  function recordOf(number: number): CompletedRecord {
    return {
      id: createHash("sha256").update(`${number}`).digest("hex").slice(0, 32),
      owner: "ab".repeat(16),
      fingerprint: "v1:payload",
      scope: `tenant-${number % 10}`,
      key: `order-${number}`,
      attempt: 1,
      crashes: 0,
      onCrash: "hold",
      createdAt: number,
      updatedAt: number + 5,
    };
  }

  function add(archive: Archive, number: number, result: Uint8Array, expiresAt: number): void {
    const record = recordOf(number);
    archive.add(archive.pack(record, record.updatedAt, result.length), result, expiresAt);
  }

  test("is a map by id, a queue by expiry and a list by completion, however it is changed", () => {
    // Long results make many slabs of few records, and so much to be moved.
    const operation = fc.oneof(
      { arbitrary: fc.tuple(fc.constant("add"), fc.nat(), fc.nat(20_000)), weight: 6 },
      { arbitrary: fc.tuple(fc.constant("delete"), fc.nat(), fc.constant(0)), weight: 3 },
      { arbitrary: fc.tuple(fc.constant("expire"), fc.nat(20), fc.constant(0)), weight: 1 },
      { arbitrary: fc.tuple(fc.constant("evict"), fc.nat(20), fc.constant(0)), weight: 1 },
    );
    fc.assert(
      fc.property(fc.array(operation, { minLength: 50, maxLength: 400 }), (operations) => {
        const archive = new Archive(true);
        const model = new Map<number, { expiresAt: number; result: Uint8Array }>();
        let next = 0;
        for (const [kind, seed, length] of operations) {
          if (kind === "add") {
            const expiresAt = seed % 1_000;
            const result = new Uint8Array(length).fill(next);
            add(archive, next, result, expiresAt);
            model.set(next++, { expiresAt, result });
          } else if (kind === "delete" && model.size > 0) {
            const number = [...model.keys()][seed % model.size]!;
            archive.delete(archive.find(recordOf(number).id)!);
            model.delete(number);
          } else if (kind === "expire") {
            const now = Math.min(...[...model.values()].map(({ expiresAt }) => expiresAt)) + seed;
            for (let one = archive.expired(now); one; one = archive.expired(now)) {
              const number = one.packed.createdAt;
              expect(model.get(number)?.expiresAt).toBe(one.expiresAt);
              archive.delete(one);
              model.delete(number);
            }
            for (const { expiresAt } of model.values()) expect(expiresAt).toBeGreaterThan(now);
          } else if (kind === "evict" && model.size > 0) {
            const [oldest] = model.keys();
            expect(archive.oldest()?.packed.createdAt).toBe(oldest);
            archive.delete(archive.oldest()!);
            model.delete(oldest!);
          }
        }
        expect(archive.size).toBe(model.size);
        const records = [...archive.records()].map(({ packed }) => packed.createdAt);
        expect(new Set(records)).toEqual(new Set(model.keys()));
        for (const [number, { expiresAt, result }] of model) {
          const found = archive.find(recordOf(number).id)!;
          expect(plain(found.packed)).toEqual(recordOf(number));
          expect(found.expiresAt).toBe(expiresAt);
          expect(Buffer.compare(found.packed.result(), result)).toBe(0);
        }
        expect(archive.slabBytes).toBeLessThanOrEqual(archive.bytes * 1.125 + 2 * SLAB_BYTES);
      }),
      { numRuns: 100 },
    );
  });

  test("its memory follows what it holds through a flow of mixed retentions", () => {
    const archive = new Archive(false);
    const result = new Uint8Array(400);
    for (let now = 0; now < 60_000; now++) {
      // One in twenty stays twenty times as long, between those that leave.
      add(archive, now, result, now + (now % 20 === 0 ? 20_000 : 1_000));
      for (let one = archive.expired(now); one; one = archive.expired(now)) archive.delete(one);
    }
    expect(archive.size).toBeGreaterThan(1_900);
    expect(archive.size).toBeLessThan(2_100);
    expect(archive.slabBytes).toBeLessThanOrEqual(archive.bytes * 1.125 + 2 * SLAB_BYTES);
  });

  test("after many deletions it holds what is left, in little memory", () => {
    const archive = new Archive(true);
    const result = new Uint8Array(100);
    for (let number = 0; number < 70_000; number++) add(archive, number, result, 1);
    const full = archive.slabBytes;
    for (let number = 0; number < 70_000; number++) {
      if (number % 100 > 0) archive.delete(archive.find(recordOf(number).id)!);
    }
    expect(archive.size).toBe(700);
    expect(archive.slabBytes).toBeLessThan(full / 10);
    for (let number = 0; number < 70_000; number += 100) {
      expect(archive.find(recordOf(number).id)?.packed.key).toBe(`order-${number}`);
    }
    for (let one = archive.oldest(); one; one = archive.oldest()) archive.delete(one);
    expect(archive.bytes).toBe(0);
    add(archive, 1, result, 1);
    expect(archive.find(recordOf(1).id)?.packed.key).toBe("order-1");
    expect([...archive.records()]).toHaveLength(1);
  });
});

function plain(record: CompletedRecord): CompletedRecord {
  const { id, owner, fingerprint, scope, key, attempt, crashes, onCrash } = record;
  const { createdAt, updatedAt } = record;
  return {
    id,
    owner,
    fingerprint,
    scope,
    key,
    attempt,
    crashes,
    onCrash,
    createdAt,
    updatedAt,
  };
}

function hexOf(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString("hex");
}

function base64urlOf(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString("base64url");
}
