// Who gets what of a queue (EN-7, EN-8): what is due, longest due first, in order of place, to one
// claimer at a time.

import assert from "node:assert/strict";
import type { ItemClaim, StoredItem } from "../../../store.ts";
import { assertRemaining, LEASE_MS, newOwner, RENEWED, SETTLED, STALE } from "../../claims.ts";
import { faultyStore } from "../../faulty-store.ts";
import {
  add,
  claim,
  claimOne,
  dead,
  deliver,
  done,
  idsOf,
  itemClaim,
  itemOf,
  lineOf,
  mustReadItem,
  newOperation,
  queueOf,
  retry,
} from "../../queue-items.ts";
import { clientsOf, storeCase, together } from "../../store-harness.ts";

const due = [
  storeCase("an empty queue gives nothing", async ({ store }) => {
    assert.deepEqual(await claim(queueOf(store)), []);
  }),

  storeCase("EN-8: a claim gives the whole item, and counts its start", async ({ store }) => {
    const queue = queueOf(store);
    const item = itemOf({ place: 3 });
    await add(queue, [item]);
    const { token, payload, dueInMs, ageMs, createdAt, ...rest } = await claimOne(queue);
    const { payload: _payload, ...given } = item;
    assert.deepEqual(rest, {
      ...given,
      state: "waiting",
      started: 1,
      finished: 0,
      error: null,
      expiresInMs: null,
    });
    assert.ok(payload.byteLength > 0 && ageMs >= 0 && createdAt > 0);
    assertRemaining(dueInMs, LEASE_MS);
    assert.equal(token.started, 1);
    assert.equal((await mustReadItem(queue, item.id)).started, 1);
  }),

  storeCase("EN-8: an item is not claimed before it is due, and is then", async (harness) => {
    const queue = queueOf(harness.store);
    const item = itemOf();
    await add(queue, [item], LEASE_MS);
    assert.deepEqual(await claim(queue), []);
    await harness.elapse(LEASE_MS / 2);
    assert.deepEqual(await claim(queue), []);
    await harness.elapse(LEASE_MS / 2);
    assert.deepEqual(idsOf(await claim(queue)), [item.id]);
  }),

  storeCase("EN-7: only items of the names that are asked for are claimed", async ({ store }) => {
    const queue = queueOf(store);
    const [email, sms, push] = ["email", "sms", "push"].map((name) => itemOf({ name }));
    await add(queue, [email!, sms!, push!]);
    const claimed = await claim(queue, { names: ["push", "email", "unknown"] });
    assert.deepEqual(idsOf(claimed).sort(), [email!.id, push!.id].sort());
    assert.deepEqual(idsOf(await claim(queue, { names: ["sms"] })), [sms!.id]);
  }),

  storeCase("EN-7: only items of the kind that is asked for are claimed", async ({ store }) => {
    const queue = queueOf(store);
    const [task, effect] = [itemOf({ kind: "task" }), itemOf({ kind: "effect" })];
    await add(queue, [task, effect]);
    assert.deepEqual(idsOf(await claim(queue, { kind: "task" })), [task.id]);
    assert.deepEqual(idsOf(await claim(queue, { kind: "effect" })), [effect.id]);
  }),

  storeCase("EN-8: what is due for longest comes first, whatever its name", async (harness) => {
    const queue = queueOf(harness.store);
    const items = Array.from({ length: 12 }, (_, n) => itemOf({ name: ["b", "a", "c"][n % 3]! }));
    for (const [n, item] of items.entries()) {
      // Added in one order, due in the other.
      await add(queue, [item], (items.length - n) * 2 * LEASE_MS);
      await harness.elapse(LEASE_MS);
    }
    await harness.elapse(2 * items.length * LEASE_MS);
    const names = ["a", "b", "c"];
    const expected = idsOf(items.toReversed());
    const first = await claim(queue, { names, limit: 5 });
    assert.deepEqual(idsOf(first), expected.slice(0, 5));
    assert.deepEqual(idsOf(await claim(queue, { names })), expected.slice(5));
  }),

  storeCase(
    "EN-8: a claim respects its limit, and the next one gets the rest",
    async ({ store }) => {
      const queue = queueOf(store);
      await add(
        queue,
        Array.from({ length: 10 }, () => itemOf()),
      );
      const counts = [];
      for (const limit of [1, 4, 1_000, 1]) counts.push((await claim(queue, { limit })).length);
      assert.deepEqual(counts, [1, 4, 5, 0]);
    },
  ),

  storeCase("EN-8: what is late to become due is not lost to what came first", async (harness) => {
    const queue = queueOf(harness.store);
    const [early, late] = [itemOf(), itemOf()];
    await add(queue, [early], 2 * LEASE_MS);
    await add(queue, [late], 0);
    assert.deepEqual(idsOf(await claim(queue)), [late.id]);
    await harness.elapse(2 * LEASE_MS);
    assert.deepEqual(idsOf(await claim(queue)).sort(), [early.id, late.id].sort());
  }),
];

/** What a first item of its operation does, and whether the next one may go on. */
const inTheWay = [
  "waits",
  "is not due",
  "is claimed",
  "has a lapsed claim that another took",
  "is to be tried again later",
] as const;

const order = [
  storeCase(
    "EN-8: of one operation only the first is claimed, then the next",
    async ({ store }) => {
      const queue = queueOf(store);
      const line = lineOf(5);
      await add(queue, line.toReversed());
      for (const { id } of line) {
        const claimed = await claimOne(queue);
        assert.equal(claimed.id, id);
        assert.deepEqual(await claim(queue), []);
        assert.deepEqual(await queue.finish([done(claimed.token)]), [SETTLED]);
      }
      assert.deepEqual(await claim(queue), []);
    },
  ),

  ...inTheWay.map((how) =>
    storeCase(`EN-8: a later place is not claimed while an earlier one ${how}`, async (harness) => {
      const queue = queueOf(harness.store);
      const [first, second] = lineOf(2);
      await add(queue, [first!], how === "is not due" ? 10 * LEASE_MS : 0);
      await add(queue, [second!]);
      const other = { names: ["email", "other"], limit: 1 };
      if (how === "waits") await add(queue, [itemOf({ name: "other" })], LEASE_MS);
      else if (how !== "is not due") {
        const { token } = await claimOne(queue, other);
        if (how === "is to be tried again later") await queue.finish([retry(token, 5 * LEASE_MS)]);
        if (how === "has a lapsed claim that another took") {
          await harness.elapse(LEASE_MS);
          assert.equal((await claimOne(queue, other)).id, first!.id);
        }
      }
      const claimed = await claim(queue, other);
      assert.deepEqual(idsOf(claimed), how === "waits" ? [first!.id] : []);
    }),
  ),

  storeCase("EN-8: an earlier place of another name is in the way as well", async ({ store }) => {
    const queue = queueOf(store);
    const operation = newOperation();
    const first = itemOf({ operation, name: "email", place: 0 });
    const second = itemOf({ operation, name: "sms", place: 1 });
    await add(queue, [first, second]);
    assert.deepEqual(await claim(queue, { names: ["sms"] }), []);
    const { token } = await claimOne(queue, { names: ["email"] });
    await queue.finish([done(token)]);
    assert.equal((await claimOne(queue, { names: ["sms"] })).id, second.id);
  }),

  storeCase("EN-8: an earlier place of another kind is not in the way", async ({ store }) => {
    const queue = queueOf(store);
    const operation = newOperation();
    const task = itemOf({ operation, kind: "task", place: 0 });
    const effect = itemOf({ operation, kind: "effect", place: 1 });
    await add(queue, [task, effect]);
    assert.deepEqual(idsOf(await claim(queue)), [effect.id]);
  }),

  storeCase("EN-8: operations are not in each other's way", async ({ store }) => {
    const queue = queueOf(store);
    const lines = Array.from({ length: 8 }, () => lineOf(3));
    await add(queue, lines.flat());
    for (const place of [0, 1, 2]) {
      const claimed = await claim(queue);
      assert.deepEqual(idsOf(claimed).sort(), lines.map((line) => line[place]!.id).sort());
      await queue.finish(claimed.map(({ token }) => done(token)));
    }
  }),

  storeCase("EN-8: a dead item lets the next one go on", async ({ store }) => {
    const queue = queueOf(store);
    const [first, second] = lineOf(2);
    await add(queue, [first!, second!]);
    const { token } = await claimOne(queue);
    await queue.finish([dead(token)]);
    assert.equal((await claimOne(queue)).id, second!.id);
  }),

  storeCase("EN-8: a removed item lets the next one go on", async ({ store }) => {
    const queue = queueOf(store);
    const [first, second] = lineOf(2);
    await add(queue, [first!, second!]);
    assert.equal(await queue.remove(first!.id), true);
    assert.equal((await claimOne(queue)).id, second!.id);
  }),

  storeCase(
    "EN-8: an item that is tried again goes before the next of its operation",
    async (harness) => {
      const queue = queueOf(harness.store);
      const [first, second] = lineOf(2);
      await add(queue, [first!, second!]);
      const { token } = await claimOne(queue);
      await queue.finish([retry(token, LEASE_MS)]);
      assert.deepEqual(await claim(queue), []);
      await harness.elapse(LEASE_MS);
      assert.equal((await claimOne(queue)).id, first!.id);
    },
  ),

  storeCase("EN-8: an earlier place that is added later goes first", async ({ store }) => {
    const queue = queueOf(store);
    const [first, second] = lineOf(2);
    await add(queue, [second!]);
    await add(queue, [first!]);
    const { id, token } = await claimOne(queue);
    assert.equal(id, first!.id);
    await queue.finish([done(token)]);
    assert.equal((await claimOne(queue)).id, second!.id);
  }),

  storeCase("EN-8: places up to 2^31 - 1 are in order", async ({ store }) => {
    const queue = queueOf(store);
    const operation = newOperation();
    const places = [0, 2 ** 20, 2 ** 24 + 1, 2 ** 31 - 2, 2 ** 31 - 1];
    await add(
      queue,
      places.toReversed().map((place) => itemOf({ operation, place })),
    );
    for (const place of places) {
      const { token, ...item } = await claimOne(queue);
      assert.equal(item.place, place);
      await queue.finish([done(token)]);
    }
  }),

  storeCase(
    "EN-8: a thousand that wait their turn do not keep others from theirs",
    async ({ store }) => {
      const queue = queueOf(store);
      const [line, other] = [lineOf(1_000), itemOf()];
      await add(queue, line);
      await add(queue, [other]);
      assert.deepEqual(idsOf(await claim(queue)).sort(), [line[0]!.id, other.id].sort());
      assert.deepEqual(await claim(queue), []);
    },
  ),
];

const leases = [
  storeCase("EN-8: a claimed item is due again when its claim has lapsed", async (harness) => {
    const queue = queueOf(harness.store);
    const item = itemOf();
    await add(queue, [item]);
    for (const started of [1, 2, 3]) {
      const claimed = await claimOne(queue);
      assert.deepEqual([claimed.started, claimed.finished], [started, 0]);
      await harness.elapse(LEASE_MS / 2);
      assert.deepEqual(await claim(queue), []);
      await harness.elapse(LEASE_MS / 2);
    }
  }),

  storeCase("EN-8: the items of a claim whose reply is lost are due again", async (harness) => {
    const faulty = faultyStore(harness.store, [
      { method: "queue.claim", call: 1, effect: "fail-after" },
    ]);
    const queue = queueOf(faulty);
    await add(queue, [itemOf(), itemOf()]);
    await assert.rejects(claim(queue), /acknowledgement was lost/);
    assert.deepEqual(await claim(queue), []);
    await harness.elapse(LEASE_MS);
    const claimed = await claim(queue);
    assert.deepEqual(
      claimed.map(({ started, finished }) => [started, finished]),
      [
        [2, 0],
        [2, 0],
      ],
    );
  }),

  storeCase("EN-8: a renewed claim lasts longer", async (harness) => {
    const queue = queueOf(harness.store);
    await add(queue, [itemOf(), itemOf()]);
    const tokens = (await claim(queue)).map(({ token }) => token);
    await harness.elapse(LEASE_MS / 2);
    assert.deepEqual(await queue.renew(tokens, LEASE_MS), [RENEWED, RENEWED]);
    await harness.elapse((LEASE_MS * 3) / 4);
    assert.deepEqual(await claim(queue), []);
    await harness.elapse(LEASE_MS / 4);
    assert.equal((await claim(queue)).length, 2);
  }),

  storeCase(
    "EN-8: a lapsed claim that nobody took may be renewed and finished",
    async (harness) => {
      const queue = queueOf(harness.store);
      await add(queue, [itemOf(), itemOf()]);
      const [one, other] = (await claim(queue)).map(({ token }) => token);
      await harness.elapse(2 * LEASE_MS);
      assert.deepEqual(await queue.renew([one!], LEASE_MS), [RENEWED]);
      assert.deepEqual(await queue.finish([done(other!)]), [SETTLED]);
      assert.deepEqual(await claim(queue), []);
      assert.deepEqual(await queue.finish([done(one!)]), [SETTLED]);
    },
  ),

  storeCase("SM-17: who lost a claim can neither renew nor finish it", async (harness) => {
    const queue = queueOf(harness.store);
    const item = itemOf();
    await add(queue, [item]);
    const { token: zombie } = await claimOne(queue);
    await harness.elapse(LEASE_MS);
    const { token } = await claimOne(queue);
    assert.deepEqual(await queue.renew([zombie], 100 * LEASE_MS), [STALE]);
    for (const ending of [done(zombie), retry(zombie), dead(zombie)]) {
      assert.deepEqual(await queue.finish([ending]), [STALE]);
    }
    const after = await mustReadItem(queue, item.id);
    assert.deepEqual([after.state, after.started, after.finished], ["waiting", 2, 0]);
    assertRemaining(after.dueInMs, LEASE_MS);
    assert.deepEqual(await queue.finish([done(token)]), [SETTLED]);
  }),

  ...(["started", "owner"] as const).map((field) =>
    storeCase(`SM-17: another ${field} can neither renew nor finish a claim`, async ({ store }) => {
      const queue = queueOf(store);
      await add(queue, [itemOf()]);
      const { token } = await claimOne(queue);
      const other = { started: token.started + 1, owner: newOwner() };
      const stranger = { ...token, [field]: other[field] };
      assert.deepEqual(await queue.renew([stranger], LEASE_MS), [STALE]);
      assert.deepEqual(await queue.finish([done(stranger)]), [STALE]);
      assert.deepEqual(await queue.finish([done(token)]), [SETTLED]);
    }),
  ),
];

/** Claims with all clients at once until nothing is left, and gives what each got. */
async function claimAll(
  clients: readonly ReturnType<typeof queueOf>[],
  callers: number,
  parts: Partial<ItemClaim>,
): Promise<StoredItem[]> {
  const drain = async (queue: ReturnType<typeof queueOf>) => {
    const all: StoredItem[] = [];
    // A claim may come back empty because others are at the rest: what they leave is looked at after.
    for (let empty = 0; empty < 2; ) {
      const claimed = await queue.claim(itemClaim(parts));
      all.push(...claimed);
      if (claimed.length === 0) empty++;
    }
    return all;
  };
  const calls = Array.from({ length: callers }, (_, n) => drain(clients[n % clients.length]!));
  const claimed = (await together(calls)).flat();
  return [...claimed, ...(await drain(clients[0]!))];
}

const races = [
  storeCase("EN-8: of 100 claims at once one gets the item", async (harness) => {
    const clients = (await clientsOf(harness)).map(queueOf);
    await add(clients[0]!, [itemOf()]);
    const calls = Array.from({ length: 100 }, (_, n) => claim(clients[n % clients.length]!));
    assert.equal((await together(calls)).flat().length, 1);
  }),

  storeCase("EN-8: 100 claims at once share the items, each to one", async (harness) => {
    const clients = (await clientsOf(harness)).map(queueOf);
    const items = Array.from({ length: 300 }, () => itemOf());
    await together(items.map((item) => clients[0]!.add([item], { dueInMs: 0 })));
    const claimed = await claimAll(clients, 100, { limit: 7 });
    assert.deepEqual(idsOf(claimed).sort(), idsOf(items).sort());
    assert.ok(claimed.every(({ started }) => started === 1));
  }),

  storeCase("EN-8: of one operation, claims at once get its first item alone", async (harness) => {
    const clients = (await clientsOf(harness)).map(queueOf);
    const lines = Array.from({ length: 10 }, () => lineOf(4));
    await add(clients[0]!, lines.flat());
    for (const place of [0, 1, 2, 3]) {
      const calls = Array.from({ length: 40 }, (_, n) =>
        claim(clients[n % clients.length]!, { limit: 3 }),
      );
      const claimed = (await together(calls)).flat();
      claimed.push(...(await claim(clients[0]!)));
      assert.deepEqual(idsOf(claimed).sort(), lines.map((line) => line[place]!.id).sort());
      const answers = await together(
        claimed.map(({ token }, n) => clients[n % clients.length]!.finish([done(token)])),
      );
      assert.deepEqual(
        answers,
        answers.map(() => [SETTLED]),
      );
    }
  }),

  storeCase("EN-8: adds, claims and endings at once lose and repeat nothing", async (harness) => {
    const clients = (await clientsOf(harness)).map(queueOf);
    const lines = Array.from({ length: 30 }, () => lineOf(3));
    const [delivered] = await together([
      deliver(clients, 6, 90),
      ...lines.map((line, n) => clients[n % clients.length]!.add(line, { dueInMs: 0 })),
    ] as const);
    assert.deepEqual(delivered.toSorted(), idsOf(lines.flat()).sort());
    for (const line of lines) {
      const places = line.map(({ id }) => delivered.indexOf(id));
      assert.deepEqual(
        places,
        places.toSorted((one, other) => one - other),
      );
    }
  }),

  storeCase("SM-17: of endings and takeovers at once, one counts", async (harness) => {
    const clients = (await clientsOf(harness)).map(queueOf);
    const items = Array.from({ length: 40 }, () => itemOf());
    await add(clients[0]!, items);
    const first = await claim(clients[0]!);
    await harness.elapse(LEASE_MS);
    const [endings, ...taken] = await together([
      together(first.map(({ token }) => clients[0]!.finish([done(token)]))),
      ...Array.from({ length: 10 }, (_, n) => claim(clients[n % clients.length]!, { limit: 9 })),
    ] as const);
    const finished = first.filter((_, n) => endings[n]![0]!.kind === "settled");
    const again = [...taken.flat(), ...(await claim(clients[0]!))];
    assert.deepEqual(idsOf([...finished, ...again]).sort(), idsOf(items).sort());
  }),
];

const bounds = [
  storeCase("a claim that is out of bounds is refused by name", async ({ store }) => {
    const queue = queueOf(store);
    const refused: readonly [Partial<ItemClaim>, RegExp][] = [
      [{ names: [] }, /`names` must be 1 to 100/],
      [{ names: Array.from({ length: 101 }, (_, n) => `${n}`) }, /`names` must be 1 to 100/],
      [{ names: ["email", "email"] }, /`names` has a name twice/],
      [{ names: [""] }, /`name` must have 1 to 255/],
      [{ kind: "job" as "task" }, /`kind` must be one of/],
      [{ limit: 0 }, /`limit` must be a whole number from 1 to 1000/],
      [{ limit: 1_001 }, /`limit` must be a whole number from 1 to 1000/],
      [{ leaseMs: 0 }, /`leaseMs` must be a whole number/],
      [{ leaseMs: 1.5 }, /`leaseMs` must be a whole number/],
      [{ owner: "me" }, /`owner` must be 32 lowercase/],
    ];
    for (const [parts, message] of refused) {
      await assert.rejects(queue.claim(itemClaim(parts)), (error: Error) => {
        assert.equal((error as { code?: string }).code, "option-invalid", String(error));
        assert.match(error.message, message);
        return true;
      });
    }
  }),
];

export const claimingCases = [...due, ...order, ...leases, ...races, ...bounds];
