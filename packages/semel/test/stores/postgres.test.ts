import { afterAll, beforeAll, describe, it } from "vitest";
import type { PostgresStore } from "../../src/stores/postgres.ts";
import { enqueueCases, queueCases, type StoreCase, storeCases } from "../../src/testing/index.ts";
import { missingPgbouncer, startPgbouncer } from "../servers/pgbouncer.ts";
import { lateCommitCases } from "./late-commits.ts";
import {
  type Driver,
  Fixture,
  missing,
  pgDriver,
  postgresJsDriver,
  unpreparedPostgresJs,
  url,
} from "./postgres-fixture.ts";

const allCases = [...storeCases, ...queueCases, ...enqueueCases, ...lateCommitCases];

function conforms(
  cases: readonly StoreCase[],
  driver: Driver,
  { at = () => url, prepare = false }: { at?: () => string; prepare?: boolean } = {},
): void {
  const fixture = new Fixture();
  let store: PostgresStore;
  let another: PostgresStore;

  beforeAll(async () => {
    const clients = [fixture.keep(driver.open(at())), fixture.keep(driver.open(at()))] as const;
    store = await fixture.store(clients[0], { prepare });
    another = await fixture.store(clients[1], { prepare });
  });

  afterAll(() => fixture.close());

  for (const storeCase of cases) {
    it(storeCase.name, async () => {
      await fixture.admin.query(`TRUNCATE ${fixture.records}; DELETE FROM ${fixture.queue}`);
      await storeCase.run(fixture.harness(store, another));
    });
  }
}

describe.skipIf(missing)(`postgresStore on pg${missing}`, () => {
  conforms(allCases, pgDriver);
});

describe.skipIf(missing)(`postgresStore on postgres.js, with prepared statements${missing}`, () => {
  conforms(allCases, postgresJsDriver, { prepare: true });
});

/** What a pooler could break: order, races, batches, and everything that is sent twice. */
const pooled = allCases.filter(({ name }) =>
  /at once|one turn|one of them|SM-16|SM-5|EN-8/.test(name),
);
const unpooled = missing || missingPgbouncer;

describe.skipIf(unpooled)(`postgresStore behind a transaction pooler${unpooled}`, () => {
  let pooler: Awaited<ReturnType<typeof startPgbouncer>>;

  beforeAll(async () => {
    pooler = await startPgbouncer(url);
  });

  afterAll(() => pooler.close());

  describe.each([pgDriver, unpreparedPostgresJs])("on $name", (driver) => {
    conforms(pooled, driver, { at: () => pooler.url });
  });
});
