import { type ChildProcess, fork } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import type { Pool } from "mysql2/promise";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Idempotency } from "../../src/engine/idempotency.ts";
import { type MysqlStore, mysqlStore } from "../../src/stores/mysql.ts";
import {
  acquire,
  assertReplay,
  bytesOf,
  claimOf,
  complete,
  completion,
  duplicateOf,
  RETENTION_MS,
  SETTLED,
} from "../../src/testing/claims.ts";
import { startMysql } from "../servers/mysql.ts";
import type { PrivateServer } from "../servers/server.ts";
import { MysqlFixture, reason } from "./mysql-fixture.ts";

const RACE = fileURLToPath(new URL("mysql-race.mjs", import.meta.url));
const skipped = reason === undefined ? "" : ` (skipped: ${reason})`;

const unusable = (remedy: RegExp) => ({
  code: "store-unusable",
  message: expect.stringMatching(remedy),
  cause: expect.anything(),
});

describe.skipIf(reason)(`mysqlStore under a storm of duplicates${skipped}`, () => {
  let fixture: MysqlFixture;
  let stores: MysqlStore[];

  beforeAll(async () => {
    fixture = await MysqlFixture.open();
    stores = Array.from({ length: 4 }, () => mysqlStore(fixture.pool()));
    await stores[0]!.migrate();
  });
  afterAll(() => fixture.close());

  it("gives a key to one of two hundred callers on four pools", async () => {
    for (let round = 0; round < 5; round++) {
      const claim = claimOf();
      const begun = Array.from({ length: 200 }, (_, n) =>
        stores[n % stores.length]!.begin(duplicateOf(claim)),
      );
      const kinds = (await Promise.all(begun)).map(({ kind }) => kind);
      expect(kinds.filter((kind) => kind === "acquired")).toHaveLength(1);
      expect(kinds.filter((kind) => kind === "busy")).toHaveLength(199);
    }
  });

  it("gives two hundred keys, asked for in any order on four pools, to one caller each", async () => {
    const claims = Array.from({ length: 200 }, () => claimOf());
    const begun = stores.flatMap((store, n) => {
      const order = n % 2 ? claims : claims.toReversed();
      return order.map((claim) => store.begin(duplicateOf(claim)));
    });
    const kinds = (await Promise.all(begun)).map(({ kind }) => kind);
    expect(kinds.filter((kind) => kind === "acquired")).toHaveLength(200);
    expect(kinds.filter((kind) => kind === "busy")).toHaveLength(600);
  });

  describe("of four processes", () => {
    let children: ChildProcess[];
    beforeAll(async () => {
      children = Array.from({ length: 4 }, () => fork(RACE, [fixture.url, fixture.name]));
      await Promise.all(children.map((child) => once(child, "message")));
    });
    afterAll(() => Promise.all(children.map(end)));

    it("gives each key to one of a hundred callers, who migrate at once", async () => {
      for (let round = 0; round < 5; round++) {
        const question = { key: `k${round}`, callers: 25 };
        const kinds = await Promise.all(children.map((child) => answerOf(child, question)));
        const acquired = kinds.flat().filter((kind) => kind === "acquired");
        const busy = kinds.flat().filter((kind) => kind === "busy");
        expect([acquired.length, busy.length]).toEqual([1, 99]);
      }
    });

    it("lets no deadlock reach a caller, though they begin, settle and sweep the same keys", async () => {
      const keys = Array.from({ length: 12 }, (_, n) => `storm-${n}`);
      const question = { keys, callers: 25 };
      const kinds = (await Promise.all(children.map((child) => answerOf(child, question)))).flat();
      const count = (kind: string) => kinds.filter((one) => one === kind).length;
      expect(count("acquired")).toBeGreaterThan(0);
      expect(count("settled")).toBe(count("acquired"));
      // "done": seen in the millisecond in which it was completed.
      expect(count("acquired") + count("busy") + count("done")).toBe(4 * 25 * 12);
    });
  });
});

async function answerOf(child: ChildProcess, question: object): Promise<string[]> {
  child.send(question);
  const [answer] = (await once(child, "message")) as [{ kinds?: string[]; error?: string }];
  if (answer.kinds === undefined) throw new Error(answer.error);
  return answer.kinds;
}

async function end(child: ChildProcess): Promise<void> {
  const exited = once(child, "exit");
  child.kill("SIGKILL");
  await exited;
}

const server = await startMysql([
  "--max-allowed-packet=1M",
  "--max-connections=12",
  "--innodb-flush-log-at-trx-commit=2",
  "--innodb-lock-wait-timeout=1",
]);
const absent = server ? "" : " (skipped: no binaries of MariaDB to start a server from)";

describe.skipIf(!server)(`mysqlStore on a server of its own${absent}`, () => {
  const { url } = (server ?? { url: "" }) as PrivateServer;
  let fixture: MysqlFixture;
  let pool: Pool;
  let store: MysqlStore;

  beforeAll(async () => {
    fixture = await MysqlFixture.open(url);
    pool = fixture.pool({ connectionLimit: 2 });
    store = mysqlStore(pool, { queryTimeout: "5s" });
  });
  afterAll(async () => {
    await fixture.close();
    await server?.close();
  });

  it("ST-11a: warns once of a server that may forget what it has committed", async () => {
    const warned = once(process, "warning");
    await store.migrate();
    await store.stats();
    const [warning] = (await warned) as [Error & { code: string }];
    expect(warning).toMatchObject({ name: "SemelWarning", code: "SEMEL_MYSQL_NOT_DURABLE" });
    expect(warning.message).toMatch(/innodb_flush_log_at_trx_commit/);
    const more: unknown[] = [];
    const note = (other: unknown) => more.push(other);
    process.on("warning", note);
    await complete(store, claimOf());
    await new Promise(setImmediate);
    process.off("warning", note);
    expect(more).toEqual([]);
  });

  it("refuses what does not fit a packet, and only that", async () => {
    const claims = [claimOf(), claimOf(), claimOf()];
    const tokens = await Promise.all(claims.map((claim) => acquire(store, claim)));
    const large = new Uint8Array(600_000);
    const [small, tooLarge, other] = await Promise.allSettled([
      store.settle(completion(tokens[0]!)),
      store.settle(completion(tokens[1]!, large)),
      store.settle(completion(tokens[2]!)),
    ]);
    expect([small, other]).toMatchObject([{ value: SETTLED }, { value: SETTLED }]);
    expect(tooLarge).toMatchObject({
      reason: { code: "store-full", message: expect.stringMatching(/max_allowed_packet/) },
    });
    expect(await store.settle(completion(tokens[1]!, large.subarray(0, 500_000)))).toEqual(SETTLED);
  });

  it("ST-10: a transaction whose result has no room is committed without it, and not made again", async () => {
    const idempotency = new Idempotency({ store, sweep: false, cache: false });
    const value = randomBytes(700_000).toString("base64");
    let runs = 0;
    const ask = (key: string, options = {}) =>
      idempotency.transaction({ key, ...options }, () => {
        runs++;
        return value;
      });
    for (const options of [{}, { refuseLate: true, firstSentAt: Date.now() }]) {
      const key = randomBytes(8).toString("hex");
      expect((await ask(key, options)).value === value).toBe(true);
      const again = await ask(key, options).catch(({ code }: { code: string }) => code);
      expect(again === "result-not-stored").toBe(true);
    }
    expect(runs).toBe(2);
  });

  it("SM-14: refuses an entry for which a journal has no room, and keeps those before it", async () => {
    const claims = [claimOf(), claimOf()];
    const [full, other] = await Promise.all(claims.map((claim) => acquire(store, claim)));
    const bytes = new Uint8Array(400_000).fill(7);
    expect(await store.append!({ ...full!, bytes })).toEqual(SETTLED);
    expect(await store.append!({ ...full!, bytes })).toEqual(SETTLED);
    const noRoom = { code: "store-full", message: expect.stringMatching(/max_allowed_packet/) };
    const small = bytes.subarray(0, 200_000);
    const [refused, kept] = await Promise.allSettled([
      store.append!({ ...full!, bytes: small }),
      store.append!({ ...other!, bytes: small }),
    ]);
    expect(refused).toMatchObject({ reason: noRoom });
    expect(kept).toMatchObject({ value: SETTLED });
    await expect(
      store.transactions.run((_, executor) =>
        store.transactions.append!(executor, { ...full!, bytes: small }),
      ),
    ).rejects.toMatchObject(noRoom);
    const tooLong = new Uint8Array(600_000);
    await expect(store.append!({ ...other!, bytes: tooLong })).rejects.toMatchObject(noRoom);
    const [journal, others] = await Promise.all(
      claims.map(async ({ id }) => (await store.read(id))!.journal!),
    );
    expect(Buffer.concat([bytes, bytes]).equals(journal!)).toBe(true);
    expect(Buffer.from(small).equals(others!)).toBe(true);
    expect(await store.append!({ ...full!, bytes: bytes.subarray(0, 100) })).toEqual(SETTLED);
    expect(await store.settle(completion(full!, new Uint8Array(500_000)))).toEqual(SETTLED);
    expect(await store.read(full!.id)).toMatchObject({ state: "completed" });
  });

  it("sends a batch that is larger than a packet in parts", async () => {
    const result = new Uint8Array(200_000).fill(1);
    const claims = Array.from({ length: 20 }, () => claimOf());
    await Promise.all(claims.map((claim) => complete(store, claim, result)));
    const answers = await Promise.all(claims.map((claim) => store.begin(duplicateOf(claim))));
    for (const answer of answers) assertReplay(answer, result);
  });

  it("is read by a replica's user, and says why it cannot write", async () => {
    const claim = claimOf();
    await complete(store, claim);
    await fixture.admin.query("CREATE USER app@'127.0.0.1'");
    await fixture.admin.query(`GRANT ALL ON ${fixture.name}.* TO app@'127.0.0.1'`);
    await fixture.admin.query("SET GLOBAL read_only = 1");
    try {
      const replica = mysqlStore(fixture.pool({ user: "app", connectionLimit: 2 }));
      await expect(replica.begin(claimOf())).rejects.toMatchObject(unusable(/read-only.*primary/));
      expect(await replica.read(claim.id)).toMatchObject({ state: "completed" });
    } finally {
      await fixture.admin.query("SET GLOBAL read_only = 0");
    }
  });

  it("tries again while another transaction holds a row, up to `lockTimeout`", async () => {
    const claim = claimOf();
    const token = await acquire(store, claim);
    const holder = await fixture.admin.getConnection();
    const held = `SELECT 1 FROM ${fixture.records} WHERE id = x'${claim.id}' FOR UPDATE`;
    await holder.beginTransaction();
    await holder.query(held);
    const impatient = mysqlStore(pool, { lockTimeout: 0 });
    await expect(impatient.settle(completion(token))).rejects.toMatchObject({
      code: "store-unavailable",
      message: expect.stringMatching(/lockTimeout/),
      cause: { errno: 1205 },
    });
    const settled = store.settle(completion(token));
    await impatient.renew({ ...token, leaseMs: 1, lapsedRetentionMs: null }).catch(() => {});
    await holder.rollback();
    holder.release();
    expect(await settled).toEqual(SETTLED);
  });

  it("is unavailable where the server takes no more connections", async () => {
    const others = fixture.pool({ connectionLimit: 20 });
    const taken = await Promise.allSettled(
      Array.from({ length: 20 }, () => others.getConnection()),
    );
    try {
      const late = mysqlStore(fixture.pool({ user: "app" }));
      await expect(late.begin(claimOf())).rejects.toMatchObject({
        code: "store-unavailable",
        cause: { errno: 1040 },
      });
    } finally {
      for (const one of taken) if (one.status === "fulfilled") one.value.release();
      await fixture.end(others);
    }
  });

  it("is unavailable while the server is stalled, and serves when it goes on", async () => {
    const hasty = mysqlStore(pool, { queryTimeout: "100ms" });
    const claim = claimOf();
    await hasty.stats();
    await server!.signal("SIGSTOP");
    try {
      await expect(hasty.begin(claim)).rejects.toMatchObject({ code: "store-unavailable" });
      await expect(
        hasty.transactions.run((_connection, executor) =>
          hasty.transactions.complete(executor, claimOf(), bytesOf("x"), RETENTION_MS),
        ),
      ).rejects.toMatchObject({ code: "store-unavailable" });
    } finally {
      await server!.signal("SIGCONT");
    }
    // SM-16: whether or not the first one was carried out.
    expect(await store.begin(claim)).toMatchObject({ kind: "acquired", attempt: 1 });
  });

  it("keeps what it answered through the death of the server, and serves when it is back", async () => {
    const claims = Array.from({ length: 20 }, () => claimOf());
    await Promise.all(claims.map((claim) => complete(store, claim, claim.key)));
    const running = await acquire(store, claimOf());
    await server!.kill();
    await expect(store.begin(claimOf())).rejects.toMatchObject({ code: "store-unavailable" });
    await expect(store.read(running.id)).rejects.toMatchObject({ code: "store-unavailable" });
    await server!.start();
    const answers = await Promise.all(claims.map((claim) => store.begin(duplicateOf(claim))));
    for (const [n, answer] of answers.entries()) assertReplay(answer, claims[n]!.key);
    expect(await store.settle(completion(running))).toEqual(SETTLED);
  });
});
