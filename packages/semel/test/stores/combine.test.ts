import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { StoreFull, StoreUnavailable } from "../../src/errors.ts";
import { type CombineOptions, combine } from "../../src/stores/combine.ts";

interface Item {
  id: string;
  text: string;
}

/** How many items of failed batches are sent at once. */
const SINGLY_MAX = 4;

const upper = ({ text }: Item) => text.toUpperCase();

/** A combiner whose batches are recorded, and answered when the test says so. */
function recorded(options: Partial<CombineOptions<Item, string>> = {}) {
  const batches: Item[][] = [];
  const reply: ((answers: readonly string[]) => void)[] = [];
  const ask = combine<Item, string>({
    send: (items) => {
      batches.push([...items]);
      return new Promise((resolve) => reply.push(resolve));
    },
    itemsMax: 100,
    inFlightMax: 1,
    collect: "idle",
    ...options,
  });
  const answer = async (batch: number) => {
    reply[batch]!(batches[batch]!.map(upper));
    await turn();
  };
  const texts = () => batches.map((batch) => batch.map(({ text }) => text).join(" "));
  return { ask: (id: string, text = id) => ask({ id, text }), answer, reply, texts };
}

const turn = () => new Promise((resolve) => setImmediate(resolve));

describe("combine", () => {
  it("sends a lone item at once when idle", async () => {
    const { ask, answer, texts } = recorded();
    const asked = ask("a");
    expect(texts()).toEqual(["a"]);
    await answer(0);
    expect(await asked).toBe("A");
  });

  it("sends what came while all batches were under way together, and answers each", async () => {
    const { ask, answer, texts } = recorded({ inFlightMax: 2 });
    const asked = ["a", "b", "c", "d", "e"].map((id) => ask(id));
    expect(texts()).toEqual(["a", "b"]);
    await answer(1);
    expect(texts()).toEqual(["a", "b", "c d e"]);
    await answer(0);
    await answer(2);
    expect(await Promise.all(asked)).toEqual(["A", "B", "C", "D", "E"]);
  });

  it("collects what one turn of the event loop asks for", async () => {
    const { ask, answer, texts } = recorded({ collect: "turn" });
    const asked = [ask("b"), Promise.resolve().then(() => ask("a"))];
    expect(texts()).toEqual([]);
    await turn();
    expect(texts()).toEqual(["a b"]);
    const late = ask("c");
    await turn();
    expect(texts()).toEqual(["a b"]);
    await answer(0);
    await turn();
    expect(texts()).toEqual(["a b", "c"]);
    await answer(1);
    expect(await Promise.all([...asked, late])).toEqual(["B", "A", "C"]);
  });

  it("shares many items out where nothing is under way, and lets the rest leave together", async () => {
    const traffic = { inFlight: 0 };
    const options = { collect: "turn", inFlightMax: 2, shareFrom: 4, traffic } as const;
    const { ask, answer, texts } = recorded(options);
    const other = recorded(options);
    const few = ["a", "b", "c"].map((id) => ask(id));
    await turn();
    expect(texts()).toEqual(["a b c"]);
    const behind = ["d", "e", "f", "g"].map((id) => other.ask(id));
    await turn();
    expect(other.texts()).toEqual(["d e f g"]);
    await answer(0);
    await other.answer(0);
    const many = ["a", "b", "c", "d", "e"].map((id) => ask(id));
    await turn();
    expect(texts()).toEqual(["a b c", "a b c", "d e"]);
    const more = ["f", "g", "h", "i"].map((id) => ask(id));
    await answer(1);
    await turn();
    expect(texts()).toEqual(["a b c", "a b c", "d e", "f g h i"]);
    await answer(2);
    await answer(3);
    await Promise.all([...few, ...behind, ...many, ...more]);
    expect(traffic).toEqual({ inFlight: 0 });
  });

  it("never sends more items than the bound", async () => {
    const { ask, answer, texts } = recorded({ itemsMax: 2 });
    const asked = ["a", "b", "c", "d"].map((id) => ask(id));
    for (let batch = 0; batch < 3; batch++) await answer(batch);
    expect(texts()).toEqual(["a", "b c", "d"]);
    await Promise.all(asked);
  });

  it("sorts a batch by id, so that two processes cannot deadlock", async () => {
    const { ask, answer, texts } = recorded();
    const asked = ["first", "c", "a", "b"].map((id) => ask(id));
    await answer(0);
    expect(texts()).toEqual(["first", "a b c"]);
    await answer(1);
    expect(await Promise.all(asked)).toEqual(["FIRST", "C", "A", "B"]);
  });

  it("keeps a record's second item back until its first is answered", async () => {
    const { ask, answer, texts } = recorded({ inFlightMax: 2 });
    const asked = [ask("a", "a1"), ask("a", "a2"), ask("b", "b1"), ask("a", "a3"), ask("b", "b2")];
    expect(texts()).toEqual(["a1", "b1"]);
    await answer(1);
    expect(texts()).toEqual(["a1", "b1", "b2"]);
    await answer(0);
    expect(texts()).toEqual(["a1", "b1", "b2", "a2"]);
    await answer(3);
    await answer(4);
    await answer(2);
    expect(await Promise.all(asked)).toEqual(["A1", "A2", "B1", "A3", "B2"]);
  });

  it("sends a record's items together, in order, where repeats are allowed", async () => {
    const { ask, answer, texts } = recorded({ repeats: true });
    const asked = [ask("z"), ask("b", "b1"), ask("a"), ask("b", "b2")];
    await answer(0);
    expect(texts()).toEqual(["z", "a b1 b2"]);
    await answer(1);
    expect(await Promise.all(asked)).toEqual(["Z", "B1", "A", "B2"]);
  });

  it("rejects an item whose answer is an error, and that one alone", async () => {
    const ask = combine<Item, string>({
      send: (items) =>
        items.map((item) => (item.id === "bad" ? new TypeError("bad") : upper(item))),
      itemsMax: 10,
      inFlightMax: 1,
      collect: "turn",
    });
    const asked = ["a", "bad", "c"].map((id) => ask({ id, text: id }));
    const [a, bad, c] = await Promise.allSettled(asked);
    expect([a, c]).toMatchObject([{ value: "A" }, { value: "C" }]);
    expect(bad).toMatchObject({ status: "rejected", reason: { message: "bad" } });
  });

  /** A combiner whose `send` fails as a whole for batches with a bad item. */
  function failing(error: (items: readonly Item[]) => Error | undefined) {
    const batches: string[] = [];
    const ask = combine<Item, string>({
      send: (items) => {
        batches.push(items.map(({ id }) => id).join(" "));
        const failure = error(items);
        if (failure) throw failure;
        return items.map(upper);
      },
      itemsMax: 10,
      inFlightMax: 1,
      collect: "turn",
    });
    return { batches, ask: (id: string) => ask({ id, text: id }) };
  }

  it("sends a batch's items singly when it fails because of one of them", async () => {
    const { ask, batches } = failing((items) =>
      items.some(({ id }) => id === "bad") ? new StoreFull("no room") : undefined,
    );
    const [a, bad, c] = await Promise.allSettled([ask("a"), ask("bad"), ask("c")]);
    expect(batches).toEqual(["a bad c", "a", "bad", "c"]);
    expect([a, c]).toMatchObject([{ value: "A" }, { value: "C" }]);
    expect(bad).toMatchObject({ status: "rejected", reason: { code: "store-full" } });
  });

  it("does not ask a store again that failed as a whole", async () => {
    const { ask, batches } = failing(() => new StoreUnavailable("down"));
    const asked = await Promise.allSettled([ask("a"), ask("b")]);
    expect(asked.map(({ status }) => status)).toEqual(["rejected", "rejected"]);
    expect(batches).toEqual(["a b"]);
  });

  it("stops sending singly when the store fails as a whole", async () => {
    const { ask, batches } = failing((items) =>
      items.length > 1 ? new Error("one of them") : new StoreUnavailable("down"),
    );
    const asked = await Promise.allSettled(["a", "b", "c", "d", "e", "f"].map(ask));
    for (const one of asked) {
      expect(one).toMatchObject({ status: "rejected", reason: { code: "store-unavailable" } });
    }
    expect(batches, "no more than are sent at once").toEqual(["a b c d e f", "a", "b", "c", "d"]);
  });

  it("sends singly several at a time and beside other batches, so that one that waits keeps no other", async () => {
    let unlock = () => {};
    const locked = new Promise<void>((resolve) => {
      unlock = resolve;
    });
    const ask = combine<Item, string>({
      send: async (items) => {
        const isLocked = items.some(({ id }) => id.startsWith("locked"));
        if (isLocked && items.length > 1) throw new Error("one of them has to wait");
        if (isLocked) await locked;
        return items.map(upper);
      },
      itemsMax: 10,
      inFlightMax: 1,
      collect: "turn",
    });
    const one = (id: string) => ask({ id, text: id });
    const waiting = [one("locked1"), one("locked2"), one("locked3")];
    expect(await Promise.all([one("m"), one("z")])).toEqual(["M", "Z"]);
    expect(await one("later")).toBe("LATER");
    unlock();
    expect(await Promise.all(waiting)).toEqual(["LOCKED1", "LOCKED2", "LOCKED3"]);
  });

  it("goes on after a failure", async () => {
    let isBroken = true;
    const { ask } = failing(() => (isBroken ? new Error("broken") : undefined));
    await expect(ask("a")).rejects.toThrow("broken");
    isBroken = false;
    expect(await ask("a")).toBe("A");
  });

  it("rejects a batch that got too few answers instead of leaving callers waiting", async () => {
    const { ask, reply } = recorded();
    const asked = ask("a");
    reply[0]!([]);
    await expect(asked).rejects.toMatchObject({ code: "store-unavailable" });
  });

  it("answers every item once, within its bounds and in each record's order", async () => {
    const lives = fc.record({
      ids: fc.array(fc.constantFrom("a", "b", "c", "d", "bad"), { maxLength: 60 }),
      itemsMax: fc.integer({ min: 1, max: 8 }),
      inFlightMax: fc.integer({ min: 1, max: 3 }),
      collect: fc.constantFrom("turn" as const, "idle" as const),
      pauseEvery: fc.integer({ min: 1, max: 10 }),
    });
    await fc.assert(
      fc.asyncProperty(lives, async ({ ids, itemsMax, inFlightMax, collect, pauseEvery }) => {
        const repeats = inFlightMax === 1 && pauseEvery % 2 === 0;
        const answered: string[] = [];
        let inFlight = 0;
        const ask = combine<Item, string>({
          send: async (items) => {
            expect(items.length).toBeLessThanOrEqual(itemsMax);
            // Those of failed batches come beside the others, one by one.
            expect(++inFlight).toBeLessThanOrEqual(inFlightMax + (repeats ? 0 : SINGLY_MAX));
            if (!repeats) expect(new Set(items.map(({ id }) => id)).size).toBe(items.length);
            await turn();
            inFlight--;
            if (items.some(({ id }) => id === "bad")) throw new Error("bad");
            for (const { text } of items) answered.push(text);
            return items.map(upper);
          },
          itemsMax,
          inFlightMax,
          collect,
          repeats,
        });
        const asked: Promise<string>[] = [];
        for (const [index, id] of ids.entries()) {
          if (index % pauseEvery === 0) await turn();
          const answer = ask({ id, text: `${id}${index}` });
          answer.catch(() => {});
          asked.push(answer);
        }
        const outcomes = await Promise.allSettled(asked);
        for (const [index, outcome] of outcomes.entries()) {
          const id = ids[index]!;
          if (id === "bad") expect(outcome.status).toBe("rejected");
          else expect(outcome).toMatchObject({ value: `${id}${index}`.toUpperCase() });
        }
        const good = ids
          .map((id, index) => `${id}${index}`)
          .filter((text) => !text.startsWith("bad"));
        expect([...answered].sort()).toEqual([...good].sort());
        for (const id of ["a", "b", "c", "d"]) {
          const inOrder = (texts: string[]) => texts.filter((text) => text.startsWith(id));
          expect(inOrder(answered)).toEqual(inOrder(good));
        }
      }),
      { numRuns: 100 },
    );
  });
});
