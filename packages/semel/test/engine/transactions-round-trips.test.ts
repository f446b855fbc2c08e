// PF-1: what a transaction costs beyond its own beginning and end: one look-up before, and one write in
// it, which on Postgres with `pg` travels with the commit.

import { createPool, type RowDataPacket } from "mysql2/promise";
import pg from "pg";
import { afterAll, describe, expect, test } from "vitest";
import { Idempotency } from "../../src/engine/idempotency.ts";
import { mysqlStore } from "../../src/stores/mysql.ts";
import { postgresStore } from "../../src/stores/postgres.ts";
import { closeServers, mysqlBackend, pgBackend } from "./transaction-backends.ts";

afterAll(closeServers);

/** Writes down what is sent by a client that has `query()`. */
function watched<Client extends { query: unknown }>(client: Client, sent: string[]): Client {
  const query = (client.query as (...given: unknown[]) => unknown).bind(client);
  return Object.assign(client, {
    query: (...given: [unknown, ...unknown[]]) => {
      const [asked] = given as [string | { text?: string; sql?: string }];
      const text = typeof asked === "string" ? asked : (asked.text ?? asked.sql ?? "");
      sent.push(text.trim().split(/[\s;]/)[0]!.toUpperCase());
      return query(...given);
    },
  });
}

describe("PF-1: statements of transaction()", () => {
  test("Postgres: a look-up, and one write beside the transaction's own", async (context) => {
    context.skip(pgBackend.reason !== undefined, pgBackend.reason);
    const stage = await pgBackend.open();
    const { url, table } = stage.address;
    const pool = new pg.Pool({ connectionString: url, max: 4 });
    const sent: string[] = [];
    // The pool's own query() goes through its clients' as well.
    pool.on("connect", (client) => void watched(client, sent));
    const store = postgresStore(pool, { table });
    await store.read("0".repeat(32));
    const insert = (client: pg.PoolClient) =>
      client.query(`INSERT INTO ${table}_orders VALUES ('a')`);
    await costs(new Idempotency({ store, sweep: false }), sent, insert, {
      // The last one has the COMMIT behind it.
      first: ["SELECT", "BEGIN", "INSERT", "CALL"],
    });
    await pool.end();
    await stage.close();
  });

  test("MySQL: a look-up, and one write beside the transaction's own", async (context) => {
    context.skip(mysqlBackend.reason !== undefined, mysqlBackend.reason);
    const stage = await mysqlBackend.open();
    const { url, table } = stage.address;
    const sent: string[] = [];
    const pool = watched(createPool({ uri: url }), sent);
    const getConnection = pool.getConnection.bind(pool);
    pool.getConnection = async () => watched(await getConnection(), sent);
    const store = mysqlStore(pool, { table });
    await store.read("0".repeat(32));
    type Connection = Awaited<ReturnType<typeof getConnection>>;
    const insert = (connection: Connection) =>
      connection.query<RowDataPacket[]>(`INSERT INTO ${table}_orders VALUES ('a')`);
    await costs(new Idempotency({ store, sweep: false }), sent, insert, {
      // `DO 0` asks whether the transaction is still open.
      first: ["SELECT", "SET", "START", "INSERT", "DO", "INSERT", "COMMIT"],
    });
    await pool.end();
    await stage.close();
  });
});

async function costs<Transaction>(
  idempotency: Idempotency<Transaction>,
  sent: string[],
  insert: (transaction: Transaction) => Promise<unknown>,
  expected: { first: string[] },
): Promise<void> {
  const ask = (one: Idempotency<Transaction>) =>
    one.transaction({ key: "k" }, async (transaction) => {
      await insert(transaction);
    });
  sent.length = 0;
  await ask(idempotency);
  expect(sent).toEqual(expected.first);
  sent.length = 0;
  await ask(idempotency);
  expect(sent, "a replay of what this process knows").toEqual([]);
}
