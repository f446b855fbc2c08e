// What comes and goes with every operation: in order, and found by its id.

import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { Chain, type Link } from "../src/chain.ts";
import { IdTable, type Row } from "../src/id-table.ts";

interface Item extends Link<Item>, Row<Item> {}

function item(n: number): Item {
  const id = n.toString(16).padStart(32, "0");
  return { id, before: undefined, after: undefined, next: undefined };
}

function listed(chain: Chain<Item>): string[] {
  const ids: string[] = [];
  for (let one = chain.first; one; one = one.after) ids.push(one.id);
  return ids;
}

/** What is done, and to which of a few items. */
const ACTIONS = fc.array(fc.tuple(fc.constantFrom("add", "delete", "toEnd"), fc.nat({ max: 9 })), {
  maxLength: 200,
});

describe("a chain", () => {
  test("keeps the order of a `Set`, whatever is added, removed and moved", () => {
    fc.assert(
      fc.property(ACTIONS, (actions) => {
        const items = Array.from({ length: 10 }, (_, n) => item(n));
        const chain = new Chain<Item>();
        const set = new Set<Item>();
        for (const [action, n] of actions) {
          const one = items[n]!;
          if (action === "add" ? !set.has(one) : action === "toEnd" && set.has(one)) {
            set.delete(one);
            set.add(one);
            if (action === "add") chain.add(one);
            else chain.toEnd(one);
          } else if (action === "delete") {
            set.delete(one);
            chain.delete(one);
          }
          expect(listed(chain)).toEqual([...set].map(({ id }) => id));
          expect(items.map((one) => chain.has(one))).toEqual(items.map((one) => set.has(one)));
        }
      }),
    );
  });

  test("leaves no trace in what was removed, by which it would stay in memory", () => {
    const chain = new Chain<Item>();
    const items = [item(1), item(2), item(3)];
    for (const one of items) chain.add(one);
    chain.delete(items[1]!);
    expect(items[1]).toMatchObject({ before: undefined, after: undefined });
    expect(listed(chain)).toEqual([items[0]!.id, items[2]!.id]);
  });
});

describe("a table of ids", () => {
  test("finds what a `Map` finds, also when many share a bucket and as it grows", () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.boolean(), fc.nat({ max: 300 })), { maxLength: 1_000 }),
        fc.constantFrom(1, 64, 65_536),
        (actions, apart) => {
          const table = new IdTable<Item>();
          const map = new Map<string, Item>();
          for (const [isAdded, n] of actions) {
            const one = item(n * apart);
            const found = map.get(one.id);
            expect(table.get(one.id)).toBe(found);
            expect(table.has(one.id)).toBe(found !== undefined);
            if (isAdded && found === undefined) {
              table.add(one);
              map.set(one.id, one);
            } else if (!isAdded) {
              expect(table.delete(found ?? one)).toBe(map.delete(one.id));
            }
            expect(table.size).toBe(map.size);
          }
          for (const [id, one] of map) expect(table.get(id)).toBe(one);
        },
      ),
      { numRuns: 50 },
    );
  });

  test("holds a hundred thousand", () => {
    const table = new IdTable<Item>();
    const items = Array.from({ length: 100_000 }, (_, n) => item(n * 7_919));
    for (const one of items) table.add(one);
    expect(items.every((one) => table.get(one.id) === one)).toBe(true);
    for (const one of items) table.delete(one);
    expect(table.size).toBe(0);
    expect(table.get(items[0]!.id)).toBeUndefined();
  });
});
