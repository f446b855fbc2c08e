// Encryption and hashing at rest (ST-11): what the store gets to see, and what it does not.

import { randomBytes } from "node:crypto";
import { expect, test } from "vitest";
import { Idempotency, type IdempotencyOptions } from "../../src/index.ts";
import type { Claim, Store } from "../../src/store.ts";
import { memoryStore } from "../../src/stores/memory.ts";

const SECRET = "4111 1111 1111 1111";
const hashKeys = Buffer.from("a secret of enough length");
const one = randomBytes(32);
const two = randomBytes(32);

/** Everything that a store is given, as text. */
function watched(store: Store): { store: Store; seen(): string } {
  const given: unknown[] = [];
  const watching = new Proxy(store, {
    get: (target, name) => {
      const member = Reflect.get(target, name);
      if (typeof member !== "function") return member;
      return (...args: unknown[]) => {
        given.push(...args);
        return member.apply(target, args);
      };
    },
  });
  const text = (_name: string, value: unknown) =>
    value instanceof Uint8Array ? Buffer.from(value).toString("latin1") : value;
  // Buffers have a toJSON of their own, which would come before the replacer.
  const plain = (value: unknown): unknown =>
    value instanceof Uint8Array
      ? Buffer.from(value).toString("latin1")
      : value && typeof value === "object"
        ? Object.fromEntries(Object.entries(value).map(([name, item]) => [name, plain(item)]))
        : value;
  return { store: watching, seen: () => JSON.stringify(given.map(plain), text) };
}

async function pay(store: Store, options: Partial<IdempotencyOptions> = {}) {
  const idempotency = new Idempotency({ store, cache: false, ...options });
  return idempotency.run(
    { key: "order-42", scope: "acme", payload: { card: SECRET } },
    () => SECRET,
  );
}

test("a result is encrypted in the store, and replayed in clear", async () => {
  const { store, seen } = watched(memoryStore());
  const encryption = { keys: { one }, current: "one" };
  expect(await pay(store, { encryption })).toMatchObject({ value: SECRET, replayed: false });
  expect(await pay(store, { encryption })).toMatchObject({ value: SECRET, replayed: true });
  expect(seen()).not.toContain(SECRET);
  expect(seen()).toContain("order-42");
});

test("keys rotate: old results are read under their own key, new ones written under the current", async () => {
  const store = memoryStore();
  await pay(store, { encryption: { keys: { one }, current: "one" } });
  const rotated = { keys: { one, two }, current: "two" };
  expect(await pay(store, { encryption: rotated })).toMatchObject({
    value: SECRET,
    replayed: true,
  });
  await expect(pay(store, { encryption: { keys: { two }, current: "two" } })).rejects.toMatchObject(
    {
      code: "record-unreadable",
      message: expect.stringContaining('the key "one"'),
    },
  );
});

test("results from before encryption was switched on stay readable", async () => {
  const store = memoryStore();
  await pay(store);
  const encryption = { keys: { one }, current: "one" };
  expect(await pay(store, { encryption })).toMatchObject({ value: SECRET, replayed: true });
});

test("a result that was changed, or moved to another record, is refused and nothing runs", async () => {
  const store = memoryStore();
  const encryption = { keys: { one }, current: "one" };
  await pay(store, { encryption });
  let runs = 0;
  const tampered = (change: (result: Uint8Array) => void): Store =>
    new Proxy(store, {
      get: (target, name) => {
        if (name !== "begin") return Reflect.get(target, name)?.bind?.(target);
        return async (claim: Claim) => {
          const answer = await target.begin(claim);
          if (answer.kind === "done") change(answer.result);
          return answer;
        };
      },
    });
  for (const at of [1, 5, 20, 40, -1]) {
    const idempotency = new Idempotency({
      store: tampered((result) => {
        result[at < 0 ? result.length - 1 : at]! ^= 1;
      }),
      encryption,
      cache: false,
    });
    const request = { key: "order-42", scope: "acme", payload: { card: SECRET } };
    await expect(idempotency.run(request, () => ++runs)).rejects.toMatchObject({
      code: "record-unreadable",
    });
  }
  expect(runs).toBe(0);

  const elsewhere = new Idempotency({ store, encryption, cache: false });
  const other = { key: "other", scope: "acme" };
  await elsewhere.run(other, () => "mine");
  const name = { key: "order-42", scope: "acme" };
  const stolen = await store.read((await elsewhere.get(name))!.id);
  const swapped = tampered((result) => result.set(stolen!.result!.subarray(0, result.length)));
  const thief = new Idempotency({ store: swapped, encryption, cache: false });
  await expect(thief.run(other, () => ++runs)).rejects.toMatchObject({ code: "record-unreadable" });
  expect(runs).toBe(0);
});

test("scope, key and payload do not appear in the store, and everything still works by them", async () => {
  const { store, seen } = watched(memoryStore());
  const idempotency = new Idempotency({ store, hashKeys, cache: false });
  const request = { key: "order-42", scope: "acme", payload: { card: SECRET } };
  expect(await idempotency.run(request, (operation) => operation.key)).toMatchObject({
    value: "order-42",
  });
  expect(await idempotency.run(request, () => "again")).toMatchObject({ replayed: true });
  await expect(idempotency.run({ ...request, payload: 1 }, () => 1)).rejects.toMatchObject({
    code: "key-reused",
  });
  const name = { key: "order-42", scope: "acme" };
  expect(await idempotency.status(name)).toMatchObject({ state: "completed" });
  expect(await idempotency.get(name)).toMatchObject({ value: "order-42" });
  expect((await idempotency.list({ scope: "acme" })).records).toHaveLength(1);
  expect((await idempotency.list({ scope: "other" })).records).toHaveLength(0);
  expect(await idempotency.void({ key: "never", scope: "acme" })).toMatchObject({
    kind: "voided",
    receipt: { key: "never", scope: "acme" },
  });
  expect(await idempotency.delete(name)).toEqual({ kind: "deleted" });
  expect(seen()).not.toContain('"order-42"');
  expect(seen()).not.toContain("acme");
});

test("another secret finds no record", async () => {
  const store = memoryStore();
  await pay(store, { hashKeys });
  const changed = Buffer.from("another secret of enough length");
  expect(await pay(store, { hashKeys: changed })).toMatchObject({ replayed: false });
});

test.each<[string, Partial<IdempotencyOptions>, string]>([
  [
    "a short key",
    { encryption: { keys: { one: randomBytes(16) }, current: "one" } },
    "32 random bytes",
  ],
  [
    "an unknown current key",
    { encryption: { keys: { one }, current: "two" } },
    "`encryption.current`",
  ],
  ["no keys", { encryption: { keys: {}, current: "one" } }, "`encryption.current`"],
  ["a bad key id", { encryption: { keys: { "a b": one }, current: "a b" } }, "the id"],
  ["an unknown option", { encryption: { keys: { one }, curent: "one" } as never }, "`current`"],
  ["a short secret", { hashKeys: Buffer.from("short") }, "at least 16 bytes"],
])("%s is refused", (_what, options, message) => {
  expect(() => new Idempotency({ store: memoryStore(), ...options })).toThrow(message);
});
