// EN-6: a step that is a transaction, whose connection is lost while the server is still at its commit.

import pg from "pg";
import { afterAll, afterEach, beforeEach, describe, expect, test } from "vitest";
import { Idempotency } from "../../src/engine/idempotency.ts";
import { closeServers, pgBackend, type Stage } from "./transaction-backends.ts";

afterAll(closeServers);

describe("a commit that is still on its way", () => {
  let stage: Stage;
  let gate: pg.Client;

  beforeEach(async (context) => {
    context.skip(pgBackend.reason !== undefined, pgBackend.reason);
    stage = await pgBackend.open();
    const { table, url } = stage.address;
    // Commits wait at a gate, which is the administrator's.
    await stage.admin(`CREATE FUNCTION ${table}_gate() RETURNS trigger LANGUAGE plpgsql AS
      'BEGIN PERFORM pg_advisory_xact_lock(hashtext(''${table}'')); RETURN NULL; END'`);
    await stage.admin(`CREATE CONSTRAINT TRIGGER gate AFTER INSERT ON ${table}_orders
      DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION ${table}_gate()`);
    gate = new pg.Client({ connectionString: url });
    await gate.connect();
    await gate.query(`SELECT pg_advisory_lock(hashtext('${table}'))`);
  });

  afterEach(async () => {
    await gate?.end();
    await stage?.admin(`DROP FUNCTION ${stage.address.table}_gate() CASCADE`);
    await stage?.close();
  });

  /** Resolves once somebody waits for a lock of this kind with such a statement. */
  async function waiting(event: "advisory" | "transactionid", statement: string): Promise<void> {
    for (;;) {
      const found = await stage.admin(`SELECT 1 FROM pg_stat_activity
        WHERE wait_event_type = 'Lock' AND wait_event = '${event}' AND query LIKE '${statement}'`);
      if (found.length > 0) return;
    }
  }

  test("is waited for, and the step is not run again", async () => {
    const { table } = stage.address;
    const client = await stage.connect();
    const idempotency = new Idempotency({ store: client.store, sweep: false });
    let runs = 0;
    const work = idempotency.run({ key: "order" }, (operation) =>
      operation.step.transaction("book", async (transaction: unknown) => {
        runs++;
        await client.insert(transaction, `run-${runs}`);
        if (runs > 1) return runs;
        const { connection } = transaction as { connection: { stream: { destroy(): void } } };
        void waiting("advisory", "%COMMIT").then(() => connection.stream.destroy());
        return runs;
      }),
    );
    await waiting("transactionid", `%${table}_records%`);
    await gate.query(`SELECT pg_advisory_unlock(hashtext('${table}'))`);

    expect(await work).toMatchObject({ value: 1, replayed: false });
    expect(await stage.skus()).toEqual(["run-1"]);
    expect(runs).toBe(1);
    await idempotency.close();
    await client.end();
  });
});
