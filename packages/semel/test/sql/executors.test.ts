// within() in the transactions of other libraries: commit, rollback and duplicates, on real servers.

import { afterAll, afterEach, beforeEach, describe, expect, it, test } from "vitest";
import { Idempotency } from "../../src/engine/idempotency.ts";
import { fromKnex, fromMikroOrm, fromTypeOrm } from "../../src/sql/index.ts";
import { deferred, failure } from "../engine/fixture.ts";
import { type Client, closeServers, type Stage } from "../engine/transaction-backends.ts";
import { libraries, type OpenLibrary } from "./libraries.ts";

afterAll(closeServers);

/** Everything that a library or a server might take for something else. */
const ODD_KEY = String.raw`what? $1 ?? 'a' "b" \ \? %s :name #{x} -- /* ?`;

describe.each(libraries)("within() in a transaction of $name", ({ backend, open }) => {
  let stage: Stage;
  let client: Client;
  let library: OpenLibrary;
  let idempotency: Idempotency;

  beforeEach(async (context) => {
    context.skip(backend.reason !== undefined, backend.reason);
    stage = await backend.open();
    client = await stage.connect();
    library = await open(stage);
    idempotency = new Idempotency({ store: client.store, sweep: false });
  });

  afterEach(async () => {
    await library.end();
    await client.end();
    await stage.close();
  });

  /** One transaction that places an order, once. */
  const place = (key: string, sku: string, payload: unknown = sku) =>
    library.transaction(({ executor, insert }) =>
      idempotency.within(executor, { key, scope: "tenant", payload }, async () => {
        await insert(sku);
        return { sku };
      }),
    );

  it.each(["k", ODD_KEY])(
    "commits order and record together, and replays afterwards (key %s)",
    async (key) => {
      expect(await place(key, "a")).toEqual({ value: { sku: "a" }, replayed: false, attempt: 1 });
      expect(await place(key, "a")).toEqual({ value: { sku: "a" }, replayed: true, attempt: 1 });
      expect(await stage.skus()).toEqual(["a"]);
      const name = { key, scope: "tenant" };
      expect(await idempotency.get(name)).toMatchObject({ ...name, state: "completed" });
      expect(await failure(place(key, "b"))).toMatchObject({ code: "key-reused" });
      expect(await stage.skus()).toEqual(["a"]);
    },
  );

  it("keeps a result of many kinds of bytes as it was", async () => {
    const bytes = Uint8Array.from({ length: 256 }, (_, index) => index);
    const ask = () =>
      library.transaction(({ executor }) =>
        idempotency.within(executor, { key: "k" }, () => ({ bytes, text: "é ? ' \\ \u{1F600}" })),
      );
    const [{ value: first }, { value: replayed }] = [await ask(), await ask()];
    expect(replayed).toEqual(first);
  });

  it("leaves neither order nor record when the transaction rolls back", async () => {
    const failed = library.transaction(async ({ executor, insert }) => {
      await idempotency.within(executor, { key: "k", scope: "tenant" }, () =>
        insert("a").then(() => 1),
      );
      throw new Error("boom");
    });
    expect(await failure(failed)).toMatchObject({ message: "boom" });
    expect(await stage.skus()).toEqual([]);
    expect(await idempotency.get({ key: "k", scope: "tenant" })).toBeUndefined();
    expect(await place("k", "b")).toMatchObject({ replayed: false, attempt: 1 });
  });

  it("passes on what the handler throws, and rolls back", async () => {
    const failed = library.transaction(({ executor, insert }) =>
      idempotency.within(executor, { key: "k" }, async () => {
        await insert("a");
        throw new RangeError("no stock");
      }),
    );
    expect(await failure(failed)).toMatchObject({ message: "no stock" });
    expect(await stage.skus()).toEqual([]);
    expect(await idempotency.get({ key: "k" })).toBeUndefined();
  });

  it("joins twice with two keys, which commit or roll back together", async () => {
    const both = (isGood: boolean) =>
      library.transaction(async ({ executor, insert }) => {
        for (const key of ["one", "two"]) {
          await idempotency.within(executor, { key }, async () => {
            await insert(key);
          });
        }
        if (!isGood) throw new Error("boom");
      });
    await failure(both(false));
    expect(await stage.skus()).toEqual([]);
    await both(true);
    await both(true);
    expect(await stage.skus()).toEqual(["one", "two"]);
  });

  it("lets two transactions with one key place one order", async () => {
    const gate = deferred();
    const first = library.transaction(async ({ executor, insert }) => {
      const outcome = await idempotency.within(executor, { key: "k" }, async () => {
        await insert("a");
        return "first";
      });
      gate.resolve();
      return outcome;
    });
    await gate.promise;
    const second = library.transaction(({ executor, insert }) =>
      idempotency.within(executor, { key: "k" }, async () => {
        await insert("b");
        return "second";
      }),
    );
    const [one, other] = await Promise.allSettled([first, second]);
    expect(one).toMatchObject({ status: "fulfilled", value: { value: "first", replayed: false } });
    if (other.status === "fulfilled") {
      expect(other.value).toMatchObject({ value: "first", replayed: true });
    } else {
      // SQLite lets one transaction write, and its clients have as much patience as they are given.
      expect(String(other.reason)).toMatch(/locked|busy|within a transaction/);
      expect(backend.name).toMatch(/SQLite/);
    }
    expect(await stage.skus()).toEqual(["a"]);
  });

  it("gives one of 8 racing transactions the order", async () => {
    const outcomes = await Promise.allSettled(
      Array.from({ length: 8 }, (_, index) => place("k", `by ${index}`, "same")),
    );
    const placed = outcomes.flatMap((outcome) =>
      outcome.status === "fulfilled" ? [outcome.value] : [],
    );
    const skus = await stage.skus();
    expect(skus).toHaveLength(1);
    expect(placed.filter(({ replayed }) => !replayed)).toHaveLength(1);
    for (const { value } of placed) expect(value).toEqual({ sku: skus[0] });
    if (!backend.name.includes("SQLite")) expect(placed).toHaveLength(8);
  });

  it("runs SQL with parameters of every kind, and counts what was changed", async () => {
    const { table } = stage.address;
    const isPostgres = backend.name.includes("Postgres");
    const mark = (n: number) => (isPostgres ? `$${n}` : "?");
    const changes = await library.transaction(async ({ executor }) => {
      const { query } = executor;
      const insert = `INSERT INTO ${table}_orders (sku) VALUES (${mark(1)}), ('it''s ? $1 -- ?')`;
      const inserted = await query(insert, ["a ? b"]);
      const none = await query(`DELETE FROM ${table}_orders WHERE sku = ${mark(1)}`, ["x"]);
      const { rows } = await query(
        `SELECT count(*) AS n FROM ${table}_orders WHERE sku = ${mark(1)}`,
        ["a ? b"],
      );
      expect(Number(rows[0]?.["n"])).toBe(1);
      return [inserted.changes, none.changes];
    });
    expect(changes).toEqual([2, 0]);
    expect(await stage.skus()).toEqual(["a ? b", "it's ? $1 -- ?"]);
  });
});

test("a manager that is in no transaction is refused", () => {
  expect(() => fromTypeOrm({}, "postgres")).toThrow(/in no transaction/);
  expect(() => fromMikroOrm({ getTransactionContext: () => undefined })).toThrow(
    /in no transaction/,
  );
});

test("a driver of Knex that is not known is refused", () => {
  const raw = async () => [];
  expect(() => fromKnex({ raw, client: { driverName: "oracledb" } })).toThrow(
    /does not know Knex's driver "oracledb"; it knows pg,/,
  );
});
