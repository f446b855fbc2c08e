// What is added to a queue (EN-7, EN-8): once by id, all or nothing, by the running attempt alone,
// and as it was given.

import assert from "node:assert/strict";
import { queueItemId } from "../../../key.ts";
import type { AttemptToken, QueueItem } from "../../../store.ts";
import {
  acquire,
  assertBytes,
  assertRemaining,
  claimOf,
  completion,
  duplicateOf,
  hold,
  LEASE_MS,
  RETENTION_MS,
  release,
  SETTLED,
  STALE,
  voiding,
} from "../../claims.ts";
import { faultyStore } from "../../faulty-store.ts";
import {
  add,
  assertSameItem,
  claim,
  claimOne,
  dead,
  done,
  idsOf,
  itemOf,
  lineOf,
  listItems,
  mustReadItem,
  newOperation,
  queueOf,
  retry,
} from "../../queue-items.ts";
import { clientsOf, type StoreHarness, storeCase, together } from "../../store-harness.ts";

const ITEMS_MAX = 1_000;

const once = [
  storeCase("EN-8: an item reads back as it was added", async ({ store }) => {
    const queue = queueOf(store);
    const item = itemOf({ kind: "task", name: "order", place: 7, payload: "an order" });
    await add(queue, [item], LEASE_MS);
    const { payload, ageMs, createdAt, dueInMs, ...rest } = await mustReadItem(queue, item.id);
    const { payload: _payload, ...given } = item;
    assert.deepEqual(rest, {
      ...given,
      state: "waiting",
      started: 0,
      finished: 0,
      error: null,
      expiresInMs: null,
    });
    assertBytes(payload, "an order");
    assertRemaining(dueInMs, LEASE_MS);
    assertRemaining(-ageMs, 0);
    assert.ok(Number.isInteger(createdAt) && createdAt > 0, `created at ${createdAt}`);
  }),

  storeCase("what is not there reads as nothing", async ({ store }) => {
    assert.equal(await queueOf(store).read(itemOf().id), undefined);
  }),

  storeCase("EN-8: an item that is added again stays as it is", async ({ store }) => {
    const queue = queueOf(store);
    const item = itemOf({ payload: "first" });
    await add(queue, [item], LEASE_MS);
    const before = await mustReadItem(queue, item.id);
    await add(queue, [{ ...item, payload: Buffer.from("second"), name: "sms" }]);
    const after = await mustReadItem(queue, item.id);
    assertSameItem(after, before);
    assertRemaining(after.dueInMs, LEASE_MS);
    assert.deepEqual(await claim(queue), []);
  }),

  storeCase("EN-8: an item that is claimed and added again stays claimed", async ({ store }) => {
    const queue = queueOf(store);
    const item = itemOf();
    await add(queue, [item]);
    const { token } = await claimOne(queue);
    await add(queue, [item]);
    assert.deepEqual(await claim(queue), []);
    assert.deepEqual(await queue.finish([done(token)]), [SETTLED]);
  }),

  storeCase("EN-8: an item twice in one call is one", async ({ store }) => {
    const queue = queueOf(store);
    const item = itemOf();
    assert.deepEqual(await queue.add([item, item], { dueInMs: 0 }), SETTLED);
    assert.deepEqual(idsOf(await claim(queue)), [item.id]);
  }),

  storeCase("EN-8: known items and new ones may share a call", async ({ store }) => {
    const queue = queueOf(store);
    const items = lineOf(4);
    await add(queue, items.slice(0, 2));
    await add(queue, items);
    assert.deepEqual(idsOf(await listItems(queue, { limit: 10 })).sort(), idsOf(items).sort());
  }),

  storeCase(
    "EN-8: a done item is not added again before its end, and is after",
    async (harness) => {
      const queue = queueOf(harness.store);
      const item = itemOf();
      await add(queue, [item]);
      await queue.finish([done((await claimOne(queue)).token, RETENTION_MS)]);
      await harness.elapse(RETENTION_MS / 2);
      await add(queue, [item]);
      assert.deepEqual(await claim(queue), []);
      assert.equal((await mustReadItem(queue, item.id)).state, "done");
      await harness.elapse(RETENTION_MS / 2);
      assert.equal(await queue.read(item.id), undefined);
      await add(queue, [{ ...item, payload: Buffer.from("anew") }]);
      const anew = await claimOne(queue);
      assert.deepEqual([anew.started, anew.finished, anew.error], [1, 0, null]);
      assertBytes(anew.payload, "anew");
      assert.equal(await queue.sweep(10), 0);
    },
  ),

  storeCase("EN-8: a dead item is not added again", async ({ store }) => {
    const queue = queueOf(store);
    const item = itemOf();
    await add(queue, [item]);
    await queue.finish([dead((await claimOne(queue)).token)]);
    await add(queue, [item]);
    assert.equal((await mustReadItem(queue, item.id)).state, "dead");
    assert.deepEqual(await claim(queue), []);
  }),

  storeCase("EN-8: an item that is added by many at once is one", async (harness) => {
    const clients = (await clientsOf(harness)).map(queueOf);
    const items = lineOf(3);
    const calls = Array.from({ length: 60 }, (_, n) => {
      // In whatever order each of them has them.
      const given = n % 2 === 0 ? items : items.toReversed();
      return clients[n % clients.length]!.add(given, { dueInMs: 0 });
    });
    for (const answer of await together(calls)) assert.deepEqual(answer, SETTLED);
    assert.equal((await listItems(clients[0]!, { limit: 100 })).length, 3);
  }),

  storeCase("EN-8: an add whose reply is lost, sent again, adds once", async ({ store }) => {
    const faulty = faultyStore(store, [{ method: "queue.add", effect: "twice" }]);
    const [queue, items] = [queueOf(faulty), lineOf(3)];
    const token = await acquire(store, claimOf());
    const own = lineOf(3, { operation: token.id });
    await add(queue, items);
    assert.deepEqual(await queue.add(own, { dueInMs: 0, attempt: token }), SETTLED);
    assert.equal(faulty.injected, 2);
    assert.equal((await listItems(queue, { limit: 100 })).length, 6);
  }),
];

/** What becomes of the attempt of a record, and of the record. */
const ends: readonly {
  readonly how: string;
  readonly end: (harness: StoreHarness, token: AttemptToken) => Promise<unknown>;
}[] = [
  { how: "completed", end: ({ store }, token) => store.settle(completion(token)) },
  { how: "released", end: ({ store }, token) => store.settle(release(token)) },
  { how: "held", end: ({ store }, token) => store.settle(hold(token)) },
];

async function assertNothingAdded(harness: StoreHarness): Promise<void> {
  const queue = queueOf(harness.store);
  assert.deepEqual(await listItems(queue, { limit: 10 }), []);
  assert.deepEqual(await claim(queue), []);
}

const fenced = [
  storeCase("SM-17: the running attempt adds items of its operation", async ({ store }) => {
    const queue = queueOf(store);
    const attempt = await acquire(store, claimOf());
    const items = lineOf(3, { operation: attempt.id });
    assert.deepEqual(await queue.add(items, { dueInMs: 0, attempt }), SETTLED);
    assert.deepEqual(idsOf(await claim(queue)), [items[0]!.id]);
    assert.deepEqual(await store.settle(completion(attempt)), SETTLED);
  }),

  ...(["attempt", "owner"] as const).map((field) =>
    storeCase(`SM-17: another ${field} adds nothing`, async (harness) => {
      const token = await acquire(harness.store, claimOf());
      const other = { attempt: token.attempt + 1, owner: token.owner.replace(/./g, "0") };
      const attempt = { ...token, [field]: other[field] };
      const items = lineOf(2, { operation: token.id });
      assert.deepEqual(await queueOf(harness.store).add(items, { dueInMs: 0, attempt }), STALE);
      await assertNothingAdded(harness);
    }),
  ),

  storeCase("SM-17: a zombie adds nothing after a takeover", async (harness) => {
    const { store } = harness;
    const taken = claimOf();
    const zombie = await acquire(store, taken);
    await harness.elapse(LEASE_MS);
    const successor = await acquire(store, duplicateOf(taken));
    const items = lineOf(2, { operation: taken.id });
    assert.deepEqual(await queueOf(store).add(items, { dueInMs: 0, attempt: zombie }), STALE);
    await assertNothingAdded(harness);
    assert.deepEqual(await queueOf(store).add(items, { dueInMs: 0, attempt: successor }), SETTLED);
  }),

  ...ends.map(({ how, end }) =>
    storeCase(
      `SM-17: nothing is added by the attempt of a record that is ${how}`,
      async (harness) => {
        const attempt = await acquire(harness.store, claimOf());
        await end(harness, attempt);
        const items = lineOf(2, { operation: attempt.id });
        assert.deepEqual(await queueOf(harness.store).add(items, { dueInMs: 0, attempt }), STALE);
        await assertNothingAdded(harness);
      },
    ),
  ),

  storeCase("SM-17: nothing is added by the attempt of a record that is void", async (harness) => {
    const { store } = harness;
    const voided = claimOf();
    const attempt = await acquire(store, voided);
    await harness.elapse(LEASE_MS);
    await store.void(voiding(voided));
    const items = lineOf(2, { operation: attempt.id });
    assert.deepEqual(await queueOf(store).add(items, { dueInMs: 0, attempt }), STALE);
    await assertNothingAdded(harness);
  }),

  storeCase(
    "SM-17: nothing is added by the attempt of a record that is absent",
    async (harness) => {
      const { id, owner } = claimOf();
      const items = lineOf(2, { operation: id });
      const attempt = { id, owner, attempt: 1 };
      assert.deepEqual(await queueOf(harness.store).add(items, { dueInMs: 0, attempt }), STALE);
      await assertNothingAdded(harness);
    },
  ),

  storeCase("SM-11: a lapsed lease that nobody took may still add", async (harness) => {
    const attempt = await acquire(harness.store, claimOf());
    await harness.elapse(2 * LEASE_MS);
    const items = lineOf(2, { operation: attempt.id });
    const queue = queueOf(harness.store);
    assert.deepEqual(await queue.add(items, { dueInMs: 0, attempt }), SETTLED);
    assert.equal((await listItems(queue, { limit: 10 })).length, 2);
  }),

  storeCase("SM-17: a stale attempt learns so though its items are there", async ({ store }) => {
    const attempt = await acquire(store, claimOf());
    const items = lineOf(2, { operation: attempt.id });
    const queue = queueOf(store);
    await queue.add(items, { dueInMs: 0, attempt });
    await store.settle(release(attempt));
    assert.deepEqual(await queue.add(items, { dueInMs: 0, attempt }), STALE);
  }),

  storeCase(
    "SM-17: of a takeover and adds at once, none lands after the takeover",
    async (harness) => {
      const [first, second = first] = await clientsOf(harness);
      const taken = claimOf();
      const zombie = await acquire(first!, taken);
      await harness.elapse(LEASE_MS);
      const items = Array.from({ length: 20 }, (_, place) =>
        itemOf({ operation: taken.id, place }),
      );
      const [successor, ...answers] = await together([
        acquire(second!, duplicateOf(taken)),
        ...items.map((item) => queueOf(first!).add([item], { dueInMs: 0, attempt: zombie })),
      ] as const);
      const kept = answers.filter(({ kind }) => kind === "settled").length;
      const queue = queueOf(first!);
      assert.equal((await listItems(queue, { limit: 100 })).length, kept);
      const late = itemOf({ operation: taken.id, place: 99 });
      assert.deepEqual(await queue.add([late], { dueInMs: 0, attempt: zombie }), STALE);
      assert.deepEqual(await queue.add([late], { dueInMs: 0, attempt: successor }), SETTLED);
    },
  ),

  storeCase("EN-8: items outlive the end and the removal of their record", async ({ store }) => {
    const queue = queueOf(store);
    const attempt = await acquire(store, claimOf());
    const [item] = lineOf(1, { operation: attempt.id });
    await queue.add([item!], { dueInMs: 0, attempt });
    await store.settle(completion(attempt));
    await store.delete(attempt.id);
    const { token } = await claimOne(queue);
    assert.deepEqual(await queue.finish([done(token)]), [SETTLED]);
  }),
];

const BYTES: readonly [string, Uint8Array][] = [
  ["empty", new Uint8Array(0)],
  ["every byte there is", Uint8Array.from({ length: 256 }, (_, byte) => byte)],
  ["no valid UTF-8", Uint8Array.of(0xff, 0xfe, 0xc3, 0x28, 0xed, 0xa0, 0x80)],
  ["a view into a larger buffer", Buffer.from("0123456789").subarray(3, 6)],
  ["1 MiB", Uint8Array.from({ length: 2 ** 20 }, (_, n) => (n * 2_654_435_761) >>> 16)],
];

const ODD_NAMES: readonly string[] = [
  "email",
  "Email",
  "email ",
  " email",
  "e-mail:v2/send",
  "'; DROP TABLE semel; --",
  '"',
  "\\",
  "%",
  "_",
  "$1",
  "?",
  "{tag}",
  ":",
  "émail",
  "e\u0301mail",
  "ß",
  "ss",
  "郵便🚀",
  "\n\t",
  "constructor",
  "__proto__",
  "0",
  "字".repeat(255),
  "x".repeat(255),
  `${"x".repeat(254)}y`,
];

const content = [
  ...BYTES.map(([what, payload]) =>
    storeCase(`EN-8: a payload that is ${what} comes back byte by byte`, async ({ store }) => {
      const queue = queueOf(store);
      const item = itemOf({ payload: Uint8Array.from(payload) });
      await queue.add([{ ...item, payload }], { dueInMs: 0 });
      assertBytes((await mustReadItem(queue, item.id)).payload, item.payload);
      const claimed = await claimOne(queue);
      assertBytes(claimed.payload, item.payload);
    }),
  ),

  storeCase("what callers do to their bytes changes nothing that is kept", async ({ store }) => {
    const queue = queueOf(store);
    const item = itemOf({ payload: "original" });
    await add(queue, [item]);
    item.payload.fill(0);
    (await mustReadItem(queue, item.id)).payload.fill(0);
    const { payload, token } = await claimOne(queue);
    assertBytes(payload, "original");
    payload.fill(0);
    await queue.finish([retry(token)]);
    assertBytes((await claimOne(queue)).payload, "original");
  }),

  storeCase("names that a database might confuse are apart, and read back", async ({ store }) => {
    const queue = queueOf(store);
    const items = ODD_NAMES.map((name) => itemOf({ name, scope: name }));
    await add(queue, items);
    for (const [n, name] of ODD_NAMES.entries()) {
      const listed = await queue.list({ name, limit: 100 });
      assert.deepEqual(idsOf(listed.items), [items[n]!.id], `listing ${JSON.stringify(name)}`);
      const claimed = await claim(queue, { names: [name] });
      assert.deepEqual(idsOf(claimed), [items[n]!.id], `claiming ${JSON.stringify(name)}`);
      const [one] = claimed;
      assert.deepEqual([one!.name, one!.scope, one!.key], [name, name, "order-42"]);
    }
  }),

  storeCase("kinds are apart in one operation", async ({ store }) => {
    const queue = queueOf(store);
    const operation = newOperation();
    const effect = itemOf({ operation, name: "same", place: 1 });
    const task = itemOf({ operation, kind: "task", name: "same", place: 2 });
    await add(queue, [effect, task]);
    assert.deepEqual(idsOf(await claim(queue, { kind: "task", names: ["same"] })), [task.id]);
    assert.deepEqual(idsOf(await claim(queue, { names: ["same"] })), [effect.id]);
  }),

  storeCase(`${ITEMS_MAX} items may be added in one call`, async ({ store }) => {
    const queue = queueOf(store);
    const items = lineOf(ITEMS_MAX);
    await add(queue, items);
    assert.equal((await queue.stats()).states.effect.waiting, ITEMS_MAX);
  }),
];

async function assertRefused(call: Promise<unknown>, message: RegExp): Promise<void> {
  await assert.rejects(call, (error: Error) => {
    assert.equal((error as { code?: string }).code, "option-invalid", String(error));
    assert.match(error.message, message);
    return true;
  });
}

const bounds = [
  storeCase("what is out of bounds is refused by name, and nothing of it kept", async (harness) => {
    const queue = queueOf(harness.store);
    const item = itemOf();
    const spoiled: readonly [Partial<QueueItem>, RegExp][] = [
      [{ id: "x" }, /`id` must be 32 lowercase/],
      [{ id: item.id.toUpperCase().replace(/\d/g, "A") }, /`id` must be 32 lowercase/],
      [{ operation: "y" }, /`operation` must be 32 lowercase/],
      [{ kind: "job" as "task" }, /`kind` must be one of "task", "effect"/],
      [{ name: "" }, /`name` must have 1 to 255 characters/],
      [{ name: "x".repeat(256) }, /`name` must have 1 to 255 characters/],
      [{ name: "\0" }, /`name` must be well-formed/],
      [{ name: "\ud800" }, /`name` must be well-formed/],
      [{ place: -1 }, /`place` must be a whole number/],
      [{ place: 0.5 }, /`place` must be a whole number/],
      [{ payload: "text" as unknown as Uint8Array }, /`payload` must be bytes/],
    ];
    for (const [part, message] of spoiled) {
      await assertRefused(queue.add([{ ...item, ...part }], { dueInMs: 0 }), message);
    }
    await assertRefused(queue.add([item], { dueInMs: -1 }), /`dueInMs`/);
    await assertRefused(queue.add([item], { dueInMs: Number.NaN }), /`dueInMs`/);
    await assertRefused(queue.add([], { dueInMs: 0 }), /1 to 1000/);
    const many = lineOf(ITEMS_MAX + 1);
    await assertRefused(queue.add(many, { dueInMs: 0 }), /1 to 1000/);
    await assertNothingAdded(harness);
  }),

  storeCase("items of several operations are not added together", async (harness) => {
    const queue = queueOf(harness.store);
    await assertRefused(queue.add([itemOf(), itemOf()], { dueInMs: 0 }), /one operation/);
    const attempt = await acquire(harness.store, claimOf());
    await assertRefused(queue.add([itemOf()], { dueInMs: 0, attempt }), /its operation/);
    await assertNothingAdded(harness);
  }),

  storeCase("the id of an item tells of its operation", async (harness) => {
    const [item, other] = [itemOf(), newOperation()];
    assert.equal(item.id, queueItemId(item.operation, "effect", "0:email"));
    const id = queueItemId(other, "effect", "0:email");
    assert.notEqual(id.slice(0, 8), item.id.slice(0, 8));
    const queue = queueOf(harness.store);
    await assertRefused(queue.add([{ ...item, id }], { dueInMs: 0 }), /queueItemId/);
    await assertNothingAdded(harness);
  }),

  storeCase("of items of which one is refused none is kept", async (harness) => {
    const items = lineOf(3);
    const spoiled = [items[0]!, items[1]!, { ...items[2]!, place: -1 }];
    const queue = queueOf(harness.store);
    await assertRefused(queue.add(spoiled, { dueInMs: 0 }), /`place`/);
    await assertNothingAdded(harness);
  }),
];

export const addingCases = [...once, ...fenced, ...content, ...bounds];
