import { expect, test } from "vitest";
import { LookUps } from "../../src/engine/look-ups.ts";
import { Slots } from "../../src/engine/slots.ts";
import { manualClock } from "../../src/testing/index.ts";
import { deferred } from "./fixture.ts";

/** Look-ups beside slots, and what was read when. */
function stage(max: number) {
  const clock = manualClock();
  const slots = new Slots(max);
  const reads: string[][] = [];
  let turn: string[] | undefined;
  const read = async (id: string) => {
    if (turn === undefined) {
      turn = [];
      reads.push(turn);
      setImmediate(() => {
        turn = undefined;
      });
    }
    turn.push(id);
    return undefined;
  };
  const lookUps = new LookUps(clock, read, () => slots.crowd);
  return { clock, slots, reads, lookUps };
}

test("looks at once while a transaction could begin soon", async () => {
  const { slots, reads, lookUps } = stage(2);
  const gate = deferred();
  // Two run, three wait.
  const running = Array.from({ length: 5 }, () => slots.run(() => gate.promise));
  await lookUps.look("a");
  expect(reads).toEqual([["a"]]);
  gate.resolve();
  await Promise.all(running);
});

test("ST-12: looks together while twice as many wait as may run, and never for long", async () => {
  const { clock, slots, reads, lookUps } = stage(2);
  const gate = deferred();
  const running = Array.from({ length: 6 }, () => slots.run(() => gate.promise));
  const looked = ["a", "b"].map((id) => lookUps.look(id));
  await clock.advance(19);
  looked.push(lookUps.look("c"));
  expect(reads).toEqual([]);
  await clock.advance(1);
  await Promise.all(looked);
  expect(reads).toEqual([["a", "b", "c"]]);
  const next = lookUps.look("d");
  await clock.advance(20);
  await next;
  expect(reads).toEqual([["a", "b", "c"], ["d"]]);
  gate.resolve();
  await Promise.all(running);
  await lookUps.look("e");
  expect(reads.flat()).toEqual(["a", "b", "c", "d", "e"]);
});

test("ST-12: looks as soon as fewer wait, before there is nothing left to do", async () => {
  const { clock, slots, reads, lookUps } = stage(2);
  const gates = Array.from({ length: 6 }, () => deferred());
  const running = gates.map((gate) => slots.run(() => gate.promise));
  const looked = ["a", "b"].map((id) => lookUps.look(id));
  await clock.advance(1);
  expect(reads).toEqual([]);
  gates[0]!.resolve();
  await Promise.all(looked);
  expect(reads).toEqual([["a", "b"]]);
  expect(clock.pending, "no timer is left").toBe(0);
  for (const gate of gates) gate.resolve();
  await Promise.all(running);
});
