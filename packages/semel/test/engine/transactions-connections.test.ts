// Transactions whose connection is lost at the worst moments, or that lose to others: resolved by
// looking for the record or doing it all again, never by guessing.

import { once } from "node:events";
import { createPool } from "mysql2/promise";
import { afterAll, afterEach, beforeEach, describe, expect, test } from "vitest";
import { Idempotency } from "../../src/engine/idempotency.ts";
import { mysqlStore } from "../../src/stores/mysql.ts";
import { type FaultProxy, faultProxy, type ProxyMessage } from "../../src/testing/fault-proxy.ts";
import { startMysql } from "../servers/mysql.ts";
import { deferred, failure } from "./fixture.ts";
import {
  type Client,
  type ConnectOptions,
  closeServers,
  mysqlBackend,
  postgresJsBackend,
  type Stage,
  serverBackends,
} from "./transaction-backends.ts";

afterAll(closeServers);

/** The connection is lost around the next commit: before the server has it, or with its reply. */
function cutCommit(proxy: FaultProxy, kind: "reset" | "lose-reply"): void {
  const isCommit = ({ from, bytes }: ProxyMessage) =>
    from === "client" && /\bcommit\b/i.test(bytes.toString("latin1"));
  void proxy.arm({ kind, at: isCommit });
}

test("ST-11a: a MySQL server whose commits are not durable is reported", async (context) => {
  const server = await startMysql(["--innodb-flush-log-at-trx-commit=2"]);
  context.skip(server === undefined, "this machine has no binaries of MariaDB");
  const pool = createPool({ uri: server!.url });
  const warned = once(process, "warning");
  await mysqlStore(pool).migrate();
  const [warning] = await warned;
  expect(warning).toMatchObject({
    code: "SEMEL_MYSQL_NOT_DURABLE",
    message: expect.stringContaining("innodb_flush_log_at_trx_commit"),
  });
  await pool.end();
  await server!.close();
});

describe.each(serverBackends)("transaction() on $name", ({ name, reason, open }) => {
  const isMysql = name === mysqlBackend.name;
  let stage: Stage;
  let clients: Client[];
  let proxies: FaultProxy[];

  beforeEach(async (context) => {
    context.skip(reason !== undefined, reason);
    stage = await open();
    clients = [];
    proxies = [];
  });

  afterEach(async () => {
    await Promise.all(clients.map(({ end }) => end()));
    await Promise.all(proxies.map((proxy) => proxy.close()));
    await stage.close();
  });

  async function connect(
    options: ConnectOptions = {},
  ): Promise<Client & { idempotency: Idempotency }> {
    const client = await stage.connect({ connections: 4, ...options });
    clients.push(client);
    const idempotency = new Idempotency({ store: client.store, sweep: false });
    // Checks its tables once; what follows is the transactions' own.
    await client.store.read("0".repeat(32));
    return { ...client, idempotency };
  }

  async function throughProxy() {
    const { hostname, port } = new URL(stage.address.url);
    const proxy = await faultProxy({
      target: { host: hostname, port: Number(port || (isMysql ? 3306 : 5432)) },
      protocol: isMysql ? "mysql" : "postgres",
    });
    proxies.push(proxy);
    return { proxy, ...(await connect({ port: proxy.port })) };
  }

  /** Runs SQL on the transaction that a handler is given. */
  const sql = (client: Client, transaction: unknown, text: string) =>
    client.executor(transaction).query(text, []);

  test("a commit whose reply was lost is found by its record, and its value returned", async () => {
    const { proxy, idempotency, insert } = await throughProxy();
    let runs = 0;
    const outcome = await idempotency.transaction({ key: "k" }, async (transaction) => {
      runs++;
      await insert(transaction, "a");
      cutCommit(proxy, "lose-reply");
      return { runs };
    });
    expect(proxy.injected["lose-reply"]).toBe(1);
    expect(outcome).toEqual({ value: { runs: 1 }, replayed: false, attempt: 1 });
    expect(runs).toBe(1);
    expect(await stage.skus()).toEqual(["a"]);
    const later = await connect();
    const replayed = await later.idempotency.transaction({ key: "k" }, () => ({ runs: 0 }));
    expect(replayed).toEqual({ value: { runs: 1 }, replayed: true, attempt: 1 });
  });

  test("a commit that never arrived is done again", async () => {
    const { proxy, idempotency, insert } = await throughProxy();
    let runs = 0;
    const outcome = await idempotency.transaction({ key: "k" }, async (transaction) => {
      runs++;
      await insert(transaction, `run ${runs}`);
      if (runs === 1) cutCommit(proxy, "reset");
      return runs;
    });
    expect(proxy.injected.reset).toBe(1);
    expect(outcome).toEqual({ value: 2, replayed: false, attempt: 1 });
    expect(await stage.skus()).toEqual(["run 2"]);
  });

  test("40 commits, each cut before or after it was done, have 40 effects", async () => {
    const { proxy, idempotency, insert } = await throughProxy();
    for (let index = 0; index < 40; index++) {
      let runs = 0;
      const key = `k${String(index).padStart(2, "0")}`;
      const outcome = await idempotency.transaction({ key }, async (transaction) => {
        runs++;
        await insert(transaction, key);
        if (runs === 1) cutCommit(proxy, index % 2 === 0 ? "lose-reply" : "reset");
        return key;
      });
      expect(outcome.value).toBe(key);
    }
    expect(proxy.injected).toMatchObject({ "lose-reply": 20, reset: 20 });
    const skus = await stage.skus();
    expect(skus).toHaveLength(40);
    expect(new Set(skus).size).toBe(40);
  });

  test("a connection that the server ends in the handler leaves nothing and is done again", async () => {
    const client = await connect();
    let runs = 0;
    const outcome = await client.idempotency.transaction({ key: "k" }, async (transaction) => {
      runs++;
      await client.insert(transaction, `run ${runs}`);
      if (runs === 1) {
        await killed(client, transaction);
        // postgres.js has told already, and ends the process when such a connection is used again.
        if (name === postgresJsBackend.name) await new Promise(() => {});
      }
      return runs;
    });
    expect(outcome.value).toBe(2);
    expect(await stage.skus()).toEqual(["run 2"]);
  });

  /** The administrator ends the transaction's connection, and it is gone. */
  async function killed(client: Client, transaction: unknown): Promise<void> {
    if (isMysql) {
      const { rows } = await sql(client, transaction, "SELECT CONNECTION_ID() AS id");
      await stage.admin(`KILL CONNECTION ${rows[0]?.["id"]}`);
      const list = "SELECT id FROM information_schema.processlist WHERE id =";
      await expect.poll(() => stage.admin(`${list} ${rows[0]?.["id"]}`)).toEqual([]);
      return;
    }
    const { rows } = await sql(client, transaction, "SELECT pg_backend_pid() AS id");
    await stage.admin(`SELECT pg_terminate_backend(${rows[0]?.["id"]})`);
    const list = "SELECT pid FROM pg_stat_activity WHERE pid =";
    await expect.poll(() => stage.admin(`${list} ${rows[0]?.["id"]}`)).toEqual([]);
  }

  test("deadlocks are retried until both transactions have committed", async () => {
    const client = await connect();
    const orders = `${stage.address.table}_orders`;
    await client.idempotency.transaction({ key: "setup" }, async (transaction) => {
      await client.insert(transaction, "left");
      await client.insert(transaction, "right");
    });
    const runs = { left: 0, right: 0 };
    const [leftIn, rightIn] = [deferred(), deferred()];
    const move = (first: "left" | "right", second: "left" | "right") =>
      client.idempotency.transaction({ key: first }, async (transaction) => {
        runs[first]++;
        const touch = (side: string) =>
          sql(client, transaction, `UPDATE ${orders} SET sku = sku WHERE sku = '${side}'`);
        await touch(first);
        // Each has its first row before either asks for the other's.
        (first === "left" ? leftIn : rightIn).resolve();
        await Promise.all([leftIn.promise, rightIn.promise]);
        await touch(second);
        await client.insert(transaction, `${first} moved`);
      });
    await Promise.all([move("left", "right"), move("right", "left")]);
    expect(runs.left + runs.right).toBeGreaterThanOrEqual(3);
    expect(await stage.skus()).toEqual(["left", "left moved", "right", "right moved"]);
  });

  test("serialisation failures are retried", async (context) => {
    context.skip(isMysql, "transactions on MySQL run at READ COMMITTED");
    const client = await connect();
    const [orders, bothRead] = [`${stage.address.table}_orders`, deferred()];
    let [reads, runs] = [0, 0];
    const append = (key: string) =>
      client.idempotency.transaction({ key }, async (transaction) => {
        runs++;
        await sql(client, transaction, "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE");
        const { rows } = await sql(client, transaction, `SELECT count(*)::int AS n FROM ${orders}`);
        if (++reads === 2) bothRead.resolve();
        await bothRead.promise;
        await client.insert(transaction, `number ${rows[0]?.["n"]}`);
      });
    await Promise.all([append("one"), append("other")]);
    expect(runs).toBeGreaterThanOrEqual(3);
    expect(await stage.skus()).toEqual(["number 0", "number 1"]);
  });

  test("ST-11a: the commit is durable in a session whose commits are not", async (context) => {
    context.skip(isMysql, "MySQL's durability is one of the server, which the store reports");
    const { table } = stage.address;
    // What holds at the very commit: a trigger that is deferred to it writes it down.
    await stage.admin(`CREATE FUNCTION ${table}_note() RETURNS trigger LANGUAGE plpgsql AS $$
      BEGIN
        UPDATE ${table}_orders SET sku = sku || ' ' || current_setting('synchronous_commit');
        RETURN NULL;
      END $$`);
    await stage.admin(`CREATE CONSTRAINT TRIGGER note AFTER INSERT ON ${table}_orders
      DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION ${table}_note()`);
    const settingIn = async (level: string) => {
      await stage.admin(`DELETE FROM ${table}_orders`);
      const client = await connect({ settings: { synchronous_commit: level } });
      await client.idempotency.transaction({ key: level }, (transaction) =>
        client.insert(transaction, "at commit:"),
      );
      return stage.skus();
    };
    expect(await settingIn("off")).toEqual(["at commit: on"]);
    expect(await settingIn("local")).toEqual(["at commit: on"]);
    // A stronger one is left as it is.
    expect(await settingIn("remote_apply")).toEqual(["at commit: remote_apply"]);
    await stage.admin(`DROP FUNCTION ${table}_note CASCADE`);
  });

  test("an error that the database has for the handler is the handler's, and not retried", async () => {
    const client = await connect();
    let runs = 0;
    const failed = client.idempotency.transaction({ key: "k" }, async (transaction) => {
      runs++;
      await client.insert(transaction, "a");
      await sql(client, transaction, "SELECT * FROM no_such_table");
    });
    expect(await failure(failed)).toMatchObject({ code: isMysql ? "ER_NO_SUCH_TABLE" : "42P01" });
    expect(runs).toBe(1);
    expect(await stage.skus()).toEqual([]);
  });

  test("a handler's own network error is not retried", async () => {
    const client = await connect();
    let runs = 0;
    const error = Object.assign(new Error("connect ECONNREFUSED"), {
      code: "ECONNREFUSED",
      syscall: "connect",
    });
    const failed = client.idempotency.transaction({ key: "k" }, () => {
      runs++;
      throw new TypeError("fetch failed", { cause: error });
    });
    expect(await failure(failed)).toMatchObject({ message: "fetch failed" });
    expect(runs).toBe(1);
  });

  test("a failed statement that the handler kept to itself does not commit half of its work", async () => {
    const client = await connect();
    const orders = `${stage.address.table}_orders`;
    await client.idempotency.transaction({ key: "setup" }, async (transaction) => {
      await client.insert(transaction, "left");
      await client.insert(transaction, "right");
    });
    const both = [deferred(), deferred()] as const;
    const swallowed: unknown[] = [];
    const move = (index: 0 | 1) =>
      client.idempotency.transaction({ key: `k${index}` }, async (transaction) => {
        const touch = (side: string) =>
          sql(client, transaction, `UPDATE ${orders} SET sku = sku WHERE sku = '${side}'`);
        await client.insert(transaction, `z${index} before`);
        await touch(index === 0 ? "left" : "right");
        both[index].resolve();
        await Promise.all(both.map(({ promise }) => promise));
        // Of the two, one loses the deadlock, and with it all that it did before.
        await touch(index === 0 ? "right" : "left").catch((error) => swallowed.push(error));
      });
    const outcomes = await Promise.allSettled([move(0), move(1)]);
    expect(swallowed).toHaveLength(1);
    for (const [index, { status }] of outcomes.entries()) {
      const isThere = (await stage.skus()).includes(`z${index} before`);
      const record = await client.idempotency.get({ key: `k${index}` });
      expect(isThere).toBe(record?.state === "completed");
      expect(isThere).toBe(status === "fulfilled");
    }
  });

  test("a constraint that was deferred to the commit is the caller's to see", async (context) => {
    context.skip(isMysql, "MySQL has no deferred constraints");
    const client = await connect();
    const { table } = stage.address;
    await stage.admin(
      `ALTER TABLE ${table}_orders ADD CONSTRAINT ${table}_unique UNIQUE (sku) DEFERRABLE INITIALLY DEFERRED`,
    );
    const failed = client.idempotency.transaction({ key: "k" }, async (transaction) => {
      await client.insert(transaction, "a");
      await client.insert(transaction, "a");
    });
    expect(await failure(failed)).toMatchObject({ code: "23505" });
    expect(await stage.skus()).toEqual([]);
    expect(await client.idempotency.get({ key: "k" })).toBeUndefined();
  });
});
