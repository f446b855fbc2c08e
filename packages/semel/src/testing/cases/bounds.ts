// Bytes and names at their bounds: results come back as they went in, and no two operations whose
// names look alike to a database share a record.

import assert from "node:assert/strict";
import type { Claim, Store } from "../../store.ts";
import {
  acquire,
  assertBytes,
  assertReplay,
  bytesOf,
  claimOf,
  complete,
  completion,
  duplicateOf,
  expectKind,
  mustRead,
  RETENTION_MS,
  reach,
  SETTLED,
} from "../claims.ts";
import { storeCase, together } from "../store-harness.ts";

const ALL_BYTES = Uint8Array.from({ length: 256 }, (_, byte) => byte);
/** The bound on stored results that the specification sets. */
const RESULT_BYTES_MAX = 2 ** 20;

const contents: readonly [string, Uint8Array][] = [
  ["empty", new Uint8Array(0)],
  ["one zero byte", new Uint8Array(1)],
  ["every byte there is", ALL_BYTES],
  ["every byte in reverse", ALL_BYTES.toReversed()],
  ["no valid UTF-8", Uint8Array.of(0xff, 0xfe, 0xc3, 0x28, 0xed, 0xa0, 0x80)],
  ["1 MiB", Uint8Array.from({ length: RESULT_BYTES_MAX }, (_, n) => (n * 2_654_435_761) >>> 16)],
];

async function assertRoundTrip(store: Store, result: Uint8Array): Promise<void> {
  const expected = Uint8Array.from(result);
  const claim = claimOf();
  await complete(store, claim, result);
  assertBytes((await mustRead(store, claim.id)).result, expected);
  assertReplay(await store.begin(duplicateOf(claim)), expected);
}

const results = [
  ...contents.map(([what, result]) =>
    storeCase(`SM-5: a result that is ${what} comes back byte by byte`, ({ store }) =>
      assertRoundTrip(store, result),
    ),
  ),

  storeCase(
    "SM-5: a result that is a view into a larger buffer is its own part",
    async ({ store }) => {
      await assertRoundTrip(store, ALL_BYTES.subarray(60, 70));
      await assertRoundTrip(store, Buffer.from(ALL_BYTES.buffer, 100, 28));
      await assertRoundTrip(store, Buffer.from("from the pool"));
    },
  ),

  ...(["Uint8Array", "Buffer"] as const).map((type) =>
    storeCase(
      `SM-21: what the caller does to its ${type} after complete changes nothing`,
      async ({ store }) => {
        const claim = claimOf();
        const token = await acquire(store, claim);
        const mine = type === "Buffer" ? Buffer.from("original") : bytesOf("original");
        assert.deepEqual(await store.settle(completion(token, mine)), SETTLED);
        mine.fill(0);
        assertReplay(await store.begin(duplicateOf(claim)), "original");
        assertBytes((await mustRead(store, claim.id)).result, "original");
      },
    ),
  ),

  ...(["Uint8Array", "Buffer"] as const).map((type) =>
    storeCase(
      `SM-12: what an administrator does to its ${type} after resolve changes nothing`,
      async (harness) => {
        const { store } = harness;
        const claim = claimOf();
        await reach(harness, "held", claim);
        const result = type === "Buffer" ? Buffer.from("original") : bytesOf("original");
        const { id } = claim;
        await store.resolve({ id, kind: "complete", result, retentionMs: RETENTION_MS });
        result.fill(0);
        assertReplay(await store.begin(duplicateOf(claim)), "original");
      },
    ),
  ),

  ...(["Uint8Array", "Buffer"] as const).map((type) =>
    storeCase(
      `SM-5: what a reader does to the replay of a ${type} changes no other replay`,
      async ({ store }) => {
        const claim = claimOf();
        await complete(store, claim, type === "Buffer" ? Buffer.from("original") : "original");
        expectKind(await store.begin(duplicateOf(claim)), "done").result.fill(0);
        assertReplay(await store.begin(duplicateOf(claim)), "original");
        (await mustRead(store, claim.id)).result?.fill(0);
        assertBytes((await mustRead(store, claim.id)).result, "original");
      },
    ),
  ),
];

const HOSTILE_SCOPES: readonly string[] = [
  "",
  " ",
  "tenant ",
  "Tenant",
  "tenant",
  "ténant",
  "te\u0301nant",
  "%",
  "_",
  "a",
  "\n\t\r",
  "\\",
  "'; DROP TABLE semel; --",
  '"',
  "{tag}",
  "null",
  "0",
  "顧客🚀",
  "ß",
  "ss",
  "x".repeat(1_024),
  "字".repeat(1_024),
];

const HOSTILE_KEYS: readonly string[] = [
  " ",
  "k",
  "K",
  "k ",
  " k",
  "'; DROP TABLE semel; --",
  "' OR 1=1 --",
  "$1",
  "?",
  ":name",
  "%",
  "_",
  "\\0",
  "\\",
  '"k"',
  "{k}",
  "a:b",
  "../../etc",
  "constructor",
  "__proto__",
  "0",
  "00",
  "1e0",
  "x".repeat(255),
  `${"x".repeat(254)}y`,
  Array.from({ length: 95 }, (_, n) => String.fromCharCode(32 + n)).join(""),
];

/** All claims live side by side, each with a result, a name and a page of its own. */
async function assertApart(store: Store, claims: readonly Claim[]): Promise<void> {
  await together(claims.map((claim) => complete(store, claim, JSON.stringify(claim.id))));
  for (const claim of claims) {
    assertReplay(await store.begin(duplicateOf(claim)), JSON.stringify(claim.id));
    const record = await mustRead(store, claim.id);
    assert.equal(record.scope, claim.scope);
    assert.equal(record.key, claim.key);
  }
}

const names = [
  storeCase("scopes that a database might confuse are apart, and read back", async ({ store }) => {
    const claims = HOSTILE_SCOPES.map((scope) => claimOf({ scope, key: "k" }));
    await assertApart(store, claims);
  }),

  storeCase("listing by a scope finds that very scope", async ({ store }) => {
    const claims = HOSTILE_SCOPES.map((scope) => claimOf({ scope, key: "k" }));
    await together(claims.map((claim) => acquire(store, claim)));
    for (const { scope, id } of claims) {
      const { records } = await store.list({ scope, limit: 100 });
      assert.deepEqual(
        records.map((record) => record.id),
        [id],
        `scope ${JSON.stringify(scope.slice(0, 40))}`,
      );
    }
  }),

  storeCase("keys that a database might confuse are apart, and read back", async ({ store }) => {
    await assertApart(
      store,
      HOSTILE_KEYS.map((key) => claimOf({ scope: "tenant", key })),
    );
  }),

  storeCase("scopes and keys that meet when joined are apart", async ({ store }) => {
    const pairs = [
      ["a", "bc"],
      ["ab", "c"],
      ["", "abc"],
      ["a:b", "c"],
      ["a", "b:c"],
      ["1:a", "b"],
      ["1", ":ab"],
      ["1:", "ab"],
    ] as const;
    await assertApart(
      store,
      pairs.map(([scope, key]) => claimOf({ scope, key })),
    );
  }),

  storeCase("SM-13: a tombstone keeps the name of what it forbids", async ({ store }) => {
    const claim = claimOf({ scope: "顧客🚀", key: `' "\\ %_` });
    await store.void({ ...claim, retentionMs: RETENTION_MS });
    const record = await mustRead(store, claim.id);
    assert.equal(record.scope, claim.scope);
    assert.equal(record.key, claim.key);
    assert.equal(record.state, "void");
  }),

  storeCase("a fingerprint of any 128 ASCII characters comes back as it is", async ({ store }) => {
    const ascii = String.fromCharCode(...Array.from({ length: 95 }, (_, n) => 32 + n));
    const fingerprint = `${ascii}${"~".repeat(33)}`;
    const claim = claimOf({ fingerprint });
    await acquire(store, claim);
    assert.equal((await mustRead(store, claim.id)).fingerprint, fingerprint);
    const other = await store.begin(
      duplicateOf(claim, { fingerprint: `${fingerprint.slice(1)} ` }),
    );
    assert.deepEqual(other, { kind: "mismatch", fingerprint });
    expectKind(await store.begin(duplicateOf(claim)), "busy");
  }),
];

export const boundsCases = [...results, ...names];
