// Records that this version cannot read (SM-23b): an error that runs nothing, and hurts no other
// record.

import assert from "node:assert/strict";
import { isSemelError } from "../../errors.ts";
import {
  assertReplay,
  claimOf,
  complete,
  duplicateOf,
  FENCED_WRITES,
  RETENTION_MS,
  reach,
} from "../claims.ts";
import { type StoreHarness, storeCase } from "../store-harness.ts";

async function assertUnreadable(call: Promise<unknown>): Promise<void> {
  await assert.rejects(
    call,
    (error) => isSemelError(error) && error.code === "record-unreadable",
    "expected a RecordUnreadable",
  );
}

async function damaged(
  harness: StoreHarness,
  situation: "running" | "lapsed" | "completed",
  how: "garbage" | "newer",
) {
  const claim = claimOf();
  const token = await reach(harness, situation, claim);
  await harness.damage!(claim.id, how);
  return { claim, token };
}

export const damageCases = (["garbage", "newer"] as const).flatMap((how) => [
  ...(["running", "lapsed", "completed"] as const).map((situation) =>
    storeCase(
      `SM-23b: a record that was ${situation} and is now ${how} runs nothing`,
      async (harness) => {
        const { store } = harness;
        const { claim } = await damaged(harness, situation, how);
        await assertUnreadable(store.begin(duplicateOf(claim)));
        await assertUnreadable(store.begin(claim));
        await assertUnreadable(store.read(claim.id));
      },
      ["damage"],
    ),
  ),

  ...FENCED_WRITES.map(({ name, write }) =>
    storeCase(
      `SM-23b: ${name} on a record that is now ${how} is refused`,
      async (harness) => {
        const { store } = harness;
        const { claim, token } = await damaged(harness, "running", how);
        const answer = await write(store, token).catch((error: unknown) => error);
        const refused = isSemelError(answer)
          ? answer.code === "record-unreadable"
          : (answer as { kind: string }).kind === "stale";
        assert.ok(refused, `expected RecordUnreadable or "stale", got ${JSON.stringify(answer)}`);
        await assertUnreadable(store.begin(duplicateOf(claim)));
      },
      ["damage"],
    ),
  ),

  storeCase(
    `SM-23b: a record that is now ${how} fails alone among many in one turn`,
    async (harness) => {
      const { store } = harness;
      const { claim } = await damaged(harness, "completed", how);
      const [one, other] = [claimOf(), claimOf()];
      await complete(store, one, "one");
      const [first, broken, second] = await Promise.allSettled([
        store.begin(duplicateOf(one)),
        store.begin(duplicateOf(claim)),
        store.begin(other),
      ]);
      assert.ok(first.status === "fulfilled" && second.status === "fulfilled");
      assertReplay(first.value, "one");
      assert.equal(second.value.kind, "acquired");
      assert.equal(broken.status, "rejected");
    },
    ["damage"],
  ),

  storeCase(
    `SM-23b: a record that is now ${how} stops neither the sweeper nor other operations`,
    async (harness) => {
      const { store } = harness;
      const expired = claimOf();
      await complete(store, expired, "expired", RETENTION_MS / 2);
      await damaged(harness, "completed", how);
      await harness.elapse(RETENTION_MS / 2);
      assert.equal(await store.sweep(100), 1);
      const fresh = claimOf();
      await complete(store, fresh, "fresh");
      assertReplay(await store.begin(duplicateOf(fresh)), "fresh");
    },
    ["damage"],
  ),
]);
