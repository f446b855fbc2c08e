// The inbox in database transactions: mark and writes commit together, or neither does.

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { PoolClient } from "pg";
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from "vitest";
import { Idempotency } from "../../src/engine/idempotency.ts";
import { createInbox, type Inbox } from "../../src/engine/inbox/inbox.ts";
import { fromPg, fromSqlite } from "../../src/sql/index.ts";
import type { SqlExecutor, Store } from "../../src/store.ts";
import { sqliteStore } from "../../src/stores/sqlite.ts";
import { type OpenDatabase, sqliteDrivers } from "../sqlite-drivers.ts";
import { Fixture, missing } from "../stores/postgres-fixture.ts";
import { overriding } from "./overriding.ts";

const OPTIONS = { attemptsMax: 2 };

interface Scene {
  inbox: Inbox<never>;
  store: Store;
  /** Opens a transaction as a user does, and rolls back when the work throws. */
  inTransaction<Answer>(work: (executor: SqlExecutor) => Promise<Answer>): Promise<Answer>;
  /** The executor of a handler's transaction. */
  executorOf(transaction: never): SqlExecutor;
  effects(): Promise<string[]>;
  close(): Promise<void>;
}

async function sqliteScene(): Promise<Scene> {
  const folder = mkdtempSync(join(tmpdir(), "semel-inbox-"));
  const open = () => sqliteDrivers[0]!.open(join(folder, "inbox.db"));
  const [records, transactions, own] = [open(), open(), open()];
  const store = sqliteStore(records, { transactions });
  await store.migrate();
  records.exec("CREATE TABLE effects (body TEXT)");
  return {
    inbox: createInbox(new Idempotency({ store }), "billing", OPTIONS) as Inbox<never>,
    store,
    async inTransaction(work) {
      own.exec("BEGIN IMMEDIATE");
      try {
        const answer = await work(fromSqlite(own));
        own.exec("COMMIT");
        return answer;
      } catch (error) {
        own.exec("ROLLBACK");
        throw error;
      }
    },
    executorOf: (transaction: OpenDatabase) => fromSqlite(transaction),
    async effects() {
      const rows = records.prepare("SELECT body FROM effects ORDER BY body").all();
      return (rows as { body: string }[]).map(({ body }) => body);
    },
    async close() {
      for (const database of [records, transactions, own]) database.close();
      rmSync(folder, { recursive: true, force: true });
    },
  } as Scene;
}

async function postgresScene(): Promise<Scene> {
  const fixture = new Fixture();
  const pool = fixture.pool();
  const store = await fixture.store(pool);
  const effects = fixture.records.replace("_records", "_effects");
  await fixture.admin.query(`CREATE TABLE ${effects} (body TEXT)`);
  const named = (executor: SqlExecutor): SqlExecutor => ({
    ...executor,
    query: (sql, parameters) =>
      executor.query(sql.replace("INTO effects", `INTO ${effects}`), parameters),
  });
  return {
    inbox: createInbox(new Idempotency({ store }), "billing", OPTIONS) as Inbox<never>,
    store,
    async inTransaction(work) {
      const client = await pool.connect();
      try {
        await client.query("BEGIN");
        const answer = await work(named(fromPg(client)));
        await client.query("COMMIT");
        return answer;
      } catch (error) {
        await client.query("ROLLBACK");
        throw error;
      } finally {
        client.release();
      }
    },
    executorOf: (transaction: PoolClient) => named(fromPg(transaction)),
    async effects() {
      const { rows } = await fixture.admin.query(`SELECT body FROM ${effects} ORDER BY body`);
      return rows.map(({ body }) => body);
    },
    async close() {
      await fixture.admin.query(`DROP TABLE ${effects}`);
      await fixture.close();
    },
  } as Scene;
}

describe.each([
  { name: "SQLite", isMissing: false, open: sqliteScene },
  { name: `Postgres${missing}`, isMissing: missing !== "", open: postgresScene },
])("$name", ({ isMissing, open }) => {
  if (isMissing) {
    test.skip("no server", () => {});
    return;
  }
  let scene: Scene;
  let count = 0;
  let id = "";
  beforeAll(async () => {
    scene = await open();
  });
  afterAll(() => scene.close());
  afterEach(() => vi.restoreAllMocks());

  /** A message of this test alone. */
  const next = () => {
    id = `m-${count++}`;
    return { id, payload: id };
  };
  const write = async (executor: SqlExecutor, body: string) => {
    const place = executor.dialect === "postgres" ? "$1" : "?";
    await executor.query(`INSERT INTO effects VALUES (${place})`, [body]);
  };
  const effectsOf = async (body: string) =>
    (await scene.effects()).filter((one) => one === body).length;

  test("MSG-1: the mark commits with the handler's writes", async () => {
    const message = next();
    const handler = (tx: never) => write(scene.executorOf(tx), message.id);
    expect(await scene.inbox.transaction(message, handler)).toBe("processed");
    expect(await scene.inbox.transaction(message, handler)).toBe("duplicate");
    expect(await scene.inbox.process(message, () => {})).toBe("duplicate");
    expect(await effectsOf(message.id)).toBe(1);
  });

  test("MSG-1: of concurrent deliveries one commits", async () => {
    const message = next();
    const handler = (tx: never) => write(scene.executorOf(tx), message.id);
    const deliver = () => scene.inbox.deliverTransaction(message, handler);
    const deliveries = await Promise.all([deliver(), deliver(), deliver()]);
    expect(deliveries.filter(({ kind }) => kind === "processed")).toHaveLength(1);
    expect(await effectsOf(message.id)).toBe(1);
  });

  test("MSG-2: failures are counted although everything was rolled back", async () => {
    const message = next();
    const handler = vi.fn(async (tx: never) => {
      await write(scene.executorOf(tx), message.id);
      throw new Error("cannot");
    });
    const deliver = () => scene.inbox.deliverTransaction(message, handler);
    expect(await deliver()).toMatchObject({ kind: "failed", attempt: 1 });
    expect(await deliver()).toMatchObject({ kind: "poison", attempt: 2 });
    expect(await deliver()).toMatchObject({ kind: "poison", attempt: 3 });
    expect(await deliver()).toMatchObject({ kind: "poison", attempt: 3 });
    expect(handler).toHaveBeenCalledTimes(2);
    expect(await effectsOf(message.id)).toBe(0);
  });

  test("MSG-2: a process that dies while it counts a failure leaves nothing to hold", async () => {
    const message = next();
    const options = { onCrash: "hold", lease: "300ms" } as const;
    const never = () => new Promise<never>(() => {});
    // Between the two writes that count: the claim, and its end.
    const dying = overriding(scene.store, { settle: never, renew: never });
    void createInbox(new Idempotency({ store: dying }), "holding", options).deliverTransaction(
      message,
      () => {
        throw new Error("cannot");
      },
    );
    const inbox = createInbox(new Idempotency({ store: scene.store }), "holding", options);
    const handler = vi.fn();
    await vi.waitFor(
      async () => expect((await scene.store.list({ limit: 1 })).records[0]?.key).toBe(message.id),
      { timeout: 5_000 },
    );
    await vi.waitFor(
      async () => {
        const { kind } = await inbox.deliverTransaction(message, handler);
        expect(kind).not.toBe("busy");
        expect(kind).toBe("processed");
      },
      { timeout: 5_000 },
    );
    expect(handler).toHaveBeenCalledOnce();
  });

  test("MSG-2: another payload under the same id is a mismatch", async () => {
    const message = next();
    await scene.inbox.transaction(message, () => {});
    const other = { id: message.id, payload: "other" };
    expect(await scene.inbox.deliverTransaction(other, () => {})).toMatchObject({
      kind: "mismatch",
    });
  });

  test("MSG-1: `within` is true when the caller's transaction commits, and only then", async () => {
    const message = next();
    const handle = (executor: SqlExecutor) =>
      scene.inbox.within(executor, message, () => write(executor, message.id));
    const rolledBack = scene.inTransaction(async (executor) => {
      await handle(executor);
      throw new Error("changed my mind");
    });
    await expect(rolledBack).rejects.toThrow("changed my mind");
    expect(await effectsOf(message.id)).toBe(0);
    expect(await scene.inTransaction(handle)).toBe("processed");
    expect(await scene.inTransaction(handle)).toBe("duplicate");
    expect(await effectsOf(message.id)).toBe(1);
  });

  test("MSG-1: a batch in a transaction marks what is fresh together with the writes", async () => {
    const messages = [next(), next(), next()];
    await scene.inbox.process(messages[1]!, () => {});
    const batch = [...messages, messages[0]!];
    const handle = (executor: SqlExecutor) =>
      scene.inbox.withinBatch(executor, batch, async (fresh) => {
        for (const { id } of fresh) await write(executor, id);
      });
    const outcomes = await scene.inTransaction(handle);
    expect(outcomes).toEqual(["processed", "duplicate", "processed", "duplicate"]);
    const again = await scene.inTransaction(handle);
    expect(new Set(again)).toEqual(new Set(["duplicate"]));
    const counts = await Promise.all(messages.map((message) => effectsOf(message.id)));
    expect(counts).toEqual([1, 0, 1]);
  });

  test("MSG-1: a batch that fails in its transaction leaves nothing, and may be handled again", async () => {
    const messages = [next(), next()];
    const failing = scene.inTransaction((executor) =>
      scene.inbox.withinBatch(executor, messages, async (fresh) => {
        for (const { id } of fresh) await write(executor, id);
        throw new Error("cannot");
      }),
    );
    await expect(failing).rejects.toThrow("cannot");
    expect(await effectsOf(messages[0]!.id)).toBe(0);
    const mismatched = scene.inTransaction((executor) =>
      scene.inbox.withinBatch(executor, [...messages, { id, payload: "other" }], () => {}),
    );
    await expect(mismatched).rejects.toMatchObject({ code: "key-reused" });
    const outcomes = await scene.inTransaction((executor) =>
      scene.inbox.withinBatch(executor, messages, () => {}),
    );
    expect(outcomes).toEqual(["processed", "processed"]);
  });
});
