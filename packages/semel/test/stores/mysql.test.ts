import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { createPool as createCallbackPool } from "mysql2";
import { createPool, type Pool } from "mysql2/promise";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { recordId } from "../../src/key.ts";
import { tablesOf } from "../../src/stores/mysql/schema.ts";
import { statementsFor } from "../../src/stores/mysql/statements.ts";
import { type MysqlStoreOptions, mysqlMigrations, mysqlStore } from "../../src/stores/mysql.ts";
import {
  acquire,
  assertReplay,
  bytesOf,
  claimOf,
  complete,
  completion,
  duplicateOf,
  hold,
  RENEWED,
  release,
  renewal,
  SETTLED,
} from "../../src/testing/claims.ts";
import { enqueueCases, queueCases, storeCases } from "../../src/testing/index.ts";
import { freePort } from "../servers/server.ts";
import { lateCommitCases } from "./late-commits.ts";
import { counted, MysqlFixture, reason } from "./mysql-fixture.ts";

const skipped = reason === undefined ? "" : ` (skipped: ${reason})`;

const allCases = [...storeCases, ...queueCases, ...enqueueCases, ...lateCommitCases];

/** Every option of a pool, and every variable of a session, that could change what a row means. */
const HOSTILE_OPTIONS = {
  rowsAsArray: true,
  namedPlaceholders: true,
  supportBigNumbers: true,
  bigNumberStrings: true,
  dateStrings: true,
  typeCast: false,
  charset: "latin1_swedish_ci",
  flags: ["-FOUND_ROWS"],
} as const;
const HOSTILE_SESSION = [
  "SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE",
  "SET time_zone = '+05:30'",
  `SET sql_mode = 'ONLY_FULL_GROUP_BY,ANSI_QUOTES,NO_BACKSLASH_ESCAPES,IGNORE_SPACE,PIPES_AS_CONCAT,PAD_CHAR_TO_FULL_LENGTH,HIGH_NOT_PRECEDENCE'`,
];

const unusable = (remedy: RegExp) => ({
  code: "store-unusable",
  message: expect.stringMatching(remedy),
  cause: expect.anything(),
});

describe.skipIf(reason)(`mysqlStore${skipped}`, () => {
  let fixture: MysqlFixture;
  let pool: Pool;
  let other: Pool;

  beforeAll(async () => {
    fixture = await MysqlFixture.open();
    [pool, other] = [fixture.pool(), fixture.pool()];
    await mysqlStore(pool).migrate();
  });
  afterAll(() => fixture.close());

  describe("conformance", () => {
    for (const storeCase of allCases) {
      it(storeCase.name, async () => storeCase.run(await fixture.harness(pool, other)));
    }
  });

  describe("conformance, on a pool that is set up to be hard", () => {
    let hostile: Pool;
    beforeAll(() => {
      hostile = fixture.pool(
        { ...HOSTILE_OPTIONS, flags: [...HOSTILE_OPTIONS.flags] },
        HOSTILE_SESSION,
      );
    });
    for (const storeCase of allCases) {
      it(storeCase.name, async () => storeCase.run(await fixture.harness(hostile, other)));
    }
  });

  describe("as it is set up", () => {
    beforeEach(() => fixture.admin.query(`DELETE FROM ${fixture.records}`));

    it("does no I/O before it is asked", async () => {
      const client = counted(pool);
      const store = mysqlStore(client);
      expect(store.transactions.concurrencyMax).toBeGreaterThan(0);
      await new Promise(setImmediate);
      expect(client.statements).toEqual([]);
    });

    it.each([
      [{ tabel: "x" }, /did you mean `table`/],
      [{ table: "" }, /`table`/],
      [{ table: "x".repeat(57) }, /`table`/],
      [{ table: "a\0b" }, /`table`/],
      [{ table: "🎉" }, /`table`/],
      [{ lockTimeout: "soon" }, /`lockTimeout`/],
      [{ queryTimeout: 0 }, /`queryTimeout`/],
    ])("refuses the options %j", (options, message) => {
      expect(() => mysqlStore(pool, options as MysqlStoreOptions)).toThrow(message);
    });

    it.each([undefined, null, {}, "mysql://localhost"])("refuses %j as a pool", (client) => {
      expect(() => mysqlStore(client as never)).toThrow(/takes a pool/);
    });

    it("takes a pool with callbacks", async () => {
      const client = createCallbackPool({ uri: fixture.url, database: fixture.name });
      try {
        const store = mysqlStore(client);
        const claim = claimOf();
        await complete(store, claim, "through callbacks");
        assertReplay(await store.begin(duplicateOf(claim)), "through callbacks");
        expect(store.transactions.concurrencyMax).toBe(9);
      } finally {
        client.end();
      }
    });

    it("keeps tables of any name apart", async () => {
      const names = ["it's `quoted`; DROP TABLE x; --", "größe", "a.b", "what?", ":name", '"', "%"];
      const stores = names.map((table) => mysqlStore(pool, { table }));
      for (const store of stores) await store.migrate();
      for (const store of stores) {
        await acquire(store, claimOf({ key: "k" }));
        expect((await store.list({ limit: 10 })).records).toHaveLength(1);
        expect((await store.stats()).bytes).toBeGreaterThan(0);
      }
    });

    it("is what its printed migrations make of a database", async () => {
      for (const sql of mysqlMigrations("printed")) {
        for (const statement of sql.split(/;\n?/).filter(Boolean)) await pool.query(statement);
      }
      const store = mysqlStore(pool, { table: "printed" });
      const claim = claimOf();
      await complete(store, claim);
      await store.migrate();
      expect(await store.begin(duplicateOf(claim))).toMatchObject({ kind: "done" });
    });

    it("is migrated by many at once, and again", async () => {
      const table = "crowd";
      const stores = Array.from({ length: 12 }, (_, n) =>
        mysqlStore(n % 2 ? pool : other, { table }),
      );
      await Promise.all(stores.map((store) => store.migrate()));
      await Promise.all(stores.map((store) => store.migrate()));
      await acquire(stores[0]!, claimOf());
      const [versions] = await pool.query("SELECT version FROM crowd_schema");
      expect(versions).toEqual([{ version: 1 }, { version: 2 }, { version: 3 }]);
    });

    it("says to migrate a database without tables, and forgets that once it is done", async () => {
      const store = mysqlStore(pool, { table: "late" });
      await expect(store.begin(claimOf())).rejects.toMatchObject(unusable(/store\.migrate\(\)/));
      await expect(store.sweep(1)).rejects.toMatchObject(unusable(/store\.migrate\(\)/));
      await mysqlStore(other, { table: "late" }).migrate();
      await acquire(store, claimOf());
    });

    it("says to migrate an older schema, and refuses a newer one", async () => {
      await mysqlStore(pool, { table: "aged" }).migrate();
      await pool.query("DELETE FROM aged_schema WHERE version > 1");
      const read = () => mysqlStore(pool, { table: "aged" }).read(recordId("", "k"));
      await expect(read()).rejects.toMatchObject({
        code: "store-unusable",
        message: expect.stringMatching(/schema 1 of 3.*store\.migrate\(\)/),
      });
      await pool.query("INSERT INTO aged_schema VALUES (4)");
      const newer = { code: "store-unusable", message: expect.stringMatching(/newer.*upgrade/) };
      const store = mysqlStore(pool, { table: "aged" });
      await expect(store.begin(claimOf())).rejects.toMatchObject(newer);
      await expect(store.migrate()).rejects.toMatchObject(newer);
    });

    it("brings older tables with records to this schema, also where that was broken off", async () => {
      const [first, second] = mysqlMigrations("older");
      for (const statement of first!.split(/;\n?/).filter(Boolean)) await pool.query(statement);
      const claim = claimOf();
      await pool.query(
        `INSERT INTO older_records (id, scope, \`key\`, fingerprint, format, state, attempt, crashes,
          owner, on_crash, lease_until, created_at, updated_at)
        VALUES (UNHEX(?), ?, ?, ?, 1, 0, 1, 0, UNHEX(?), 1, 1, 1, 1)`,
        [claim.id, claim.scope, claim.key, claim.fingerprint, claim.owner],
      );
      await pool.query(second!.slice(0, second!.indexOf(";")));
      await Promise.all(
        [pool, other].map((each) => mysqlStore(each, { table: "older" }).migrate()),
      );
      const store = mysqlStore(pool, { table: "older" });
      const entry = { ...claim, attempt: 1, bytes: bytesOf("done") };
      expect(await store.append!(entry)).toEqual(SETTLED);
      expect(await store.read(claim.id)).toMatchObject({ journal: bytesOf("done") });
    });

    it("says to migrate when the tables were dropped under it", async () => {
      const store = mysqlStore(pool, { table: "dropped" });
      await store.migrate();
      await acquire(store, claimOf());
      await pool.query("DROP TABLE dropped_records");
      await expect(store.begin(claimOf())).rejects.toMatchObject(unusable(/migrate/));
    });

    it("SM-19: counts time by the server's clock, whatever the time zone of a session", async () => {
      const claim = claimOf();
      await acquire(mysqlStore(fixture.pool({}, ["SET time_zone = '-11:00'"])), claim);
      const [[clock]] = (await pool.query("SELECT UNIX_TIMESTAMP() AS s")) as never as [
        [{ s: number }],
      ];
      const record = await mysqlStore(pool).read(claim.id);
      expect(Math.abs(record!.createdAt / 1_000 - clock.s)).toBeLessThan(30);
      expect(record!.leaseRemainingMs).toBeGreaterThan(claim.leaseMs - 30_000);
    });
  });

  describe("when the server cannot serve", () => {
    const ended = async () => {
      const client = fixture.pool();
      await client.query("SELECT 1");
      await fixture.end(client);
      return client;
    };

    it("says that the pool was ended", async () => {
      const store = mysqlStore(await ended());
      for (const call of [
        () => store.begin(claimOf()),
        () => store.read(recordId("", "k")),
        () => store.migrate(),
        () => store.sweep(1),
      ]) {
        await expect(call()).rejects.toMatchObject(unusable(/pool was ended/));
      }
    });

    it("is unavailable where nothing listens, and its cause is kept", async () => {
      const client = createPool({ host: "127.0.0.1", port: await freePort(), user: "root" });
      await expect(mysqlStore(client).begin(claimOf())).rejects.toMatchObject({
        code: "store-unavailable",
        cause: { code: "ECONNREFUSED" },
      });
      await client.end();
    });

    it("is unavailable where a server accepts and says nothing, after `queryTimeout`", async () => {
      const { createServer } = await import("node:net");
      const silent = createServer(() => {}).listen(0, "127.0.0.1");
      await once(silent, "listening");
      const { port } = silent.address() as { port: number };
      const client = createPool({ host: "127.0.0.1", port, user: "root" });
      const store = mysqlStore(client, { queryTimeout: "20ms" });
      await expect(store.begin(claimOf())).rejects.toMatchObject({
        code: "store-unavailable",
        message: expect.stringMatching(/within 20 ms/),
      });
      void client.end().catch(() => {});
      silent.close();
    });

    it.each([
      [{ database: "" }, /names no database/],
      [{ database: "semel_no_such_database" }, /names no database/],
      [{ user: "semel_nobody", password: "wrong" }, /lacks a permission/],
    ])("says what is wrong with the pool's %j", async (options, remedy) => {
      const store = mysqlStore(fixture.pool({ uri: new URL("/", fixture.url).href, ...options }));
      await expect(store.migrate()).rejects.toMatchObject(unusable(remedy));
    });

    it("replays for a user who may only read, and says which permissions it lacks", async () => {
      const user = `${fixture.name}_r`;
      await fixture.admin.query(`CREATE USER ${user}@'%'`);
      try {
        await fixture.admin.query(`GRANT SELECT ON ${fixture.name}.* TO ${user}@'%'`);
        const store = mysqlStore(fixture.pool({ user, password: "" }));
        await expect(store.begin(claimOf())).rejects.toMatchObject(unusable(/SELECT, INSERT/));
        await expect(store.sweep(1)).resolves.toBe(0);
        const fresh = mysqlStore(fixture.pool({ user, password: "" }), { table: "other" });
        await expect(fresh.migrate()).rejects.toMatchObject(unusable(/lacks a permission/));
      } finally {
        await fixture.admin.query(`DROP USER ${user}@'%'`);
      }
    });

    it("refuses connections whose writes nobody commits", async () => {
      const client = fixture.pool({}, ["SET autocommit = 0"]);
      try {
        await expect(mysqlStore(client).begin(claimOf())).rejects.toMatchObject(
          unusable(/autocommit/),
        );
      } finally {
        await fixture.end(client);
      }
    });

    it("refuses a connection that came back to the pool inside a transaction", async () => {
      const client = fixture.pool({ connectionLimit: 1 });
      const store = mysqlStore(client);
      await acquire(store, claimOf());
      const connection = await client.getConnection();
      await connection.beginTransaction();
      connection.release();
      await expect(store.begin(claimOf())).rejects.toMatchObject(unusable(/roll back or commit/));
      await client.query("ROLLBACK");
      await acquire(store, claimOf());
    });
  });

  describe("as it combines statements (ST-12)", () => {
    async function counting(table = "semel") {
      await fixture.admin.query(`DELETE FROM ${fixture.records}`);
      const client = counted(pool);
      const store = mysqlStore(client, { table });
      await store.stats();
      client.statements.length = 0;
      /** How many statements a piece of work takes. */
      const tripsOf = async (work: () => Promise<unknown>) => {
        const before = client.statements.length;
        await work();
        return client.statements.length - before;
      };
      return { store, tripsOf };
    }

    it("PF-1: a new operation takes two round trips, a renewal, a step and a read one", async () => {
      const { store, tripsOf } = await counting();
      const claim = claimOf();
      const token = { ...claim, attempt: 1 };
      expect(await tripsOf(() => acquire(store, claim))).toBe(1);
      expect(await tripsOf(() => store.renew(renewal(token)))).toBe(1);
      expect(await tripsOf(() => store.append!({ ...token, bytes: bytesOf("done") }))).toBe(1);
      expect(await tripsOf(() => store.settle(completion(token)))).toBe(1);
      expect(await tripsOf(() => store.read(claim.id))).toBe(1);
    });

    it("PF-1: a replay takes two round trips, and one where replays are the rule", async () => {
      const { store, tripsOf } = await counting();
      const claim = claimOf();
      await complete(store, claim);
      const trips: number[] = [];
      for (let n = 0; n < 40; n++) {
        trips.push(await tripsOf(() => store.begin(duplicateOf(claim))));
      }
      expect(trips[0]).toBe(2);
      expect(trips.at(-1)).toBe(1);
      expect(trips).toEqual(trips.toSorted().reverse());
      // What is new then takes a look more.
      expect(await tripsOf(() => complete(store, claimOf()))).toBe(3);
    });

    it("PF-1: what one turn of the event loop asks shares a round trip", async () => {
      const { store, tripsOf } = await counting();
      const claims = Array.from({ length: 100 }, () => claimOf());
      const all = <Answer>(ask: (claim: (typeof claims)[number]) => Promise<Answer>) =>
        Promise.all(claims.map(ask));
      expect(await tripsOf(() => all((claim) => acquire(store, claim)))).toBe(1);
      expect(
        await tripsOf(() => all((claim) => store.renew(renewal({ ...claim, attempt: 1 })))),
      ).toBe(1);
      const token = (claim: (typeof claims)[number]) => ({ ...claim, attempt: 1 });
      const entry = (claim: (typeof claims)[number]) => ({
        ...token(claim),
        bytes: bytesOf(claim.key),
      });
      expect(await tripsOf(() => all((claim) => store.append!(entry(claim))))).toBe(1);
      expect(await tripsOf(() => all((claim) => store.append!(entry(claim))))).toBe(1);
      for (const { id, key } of claims) {
        expect(await store.read(id)).toMatchObject({ journal: bytesOf(key + key) });
      }
      expect(await tripsOf(() => all((claim) => store.settle(completion(token(claim)))))).toBe(1);
      expect(await tripsOf(() => all((claim) => store.read(claim.id)))).toBe(1);
      expect(await tripsOf(() => all((claim) => store.begin(duplicateOf(claim))))).toBe(2);
    });

    it("takes over, and refuses, many in three round trips", async () => {
      const { store, tripsOf } = await counting();
      const claims = Array.from({ length: 30 }, () => claimOf());
      await Promise.all(claims.map((claim) => acquire(store, claim)));
      await fixture.elapse(claims[0]!.leaseMs);
      const next = claims.map((claim) => duplicateOf(claim));
      const begun: unknown[] = [];
      const trips = await tripsOf(async () => {
        begun.push(...(await Promise.all(next.map((claim) => store.begin(claim)))));
      });
      expect(begun).toEqual(next.map(() => ({ kind: "acquired", attempt: 2, probe: false })));
      expect(trips).toBe(3);
    });

    it("SM-17: tells in one batch who was stale, though all wrote the same", async () => {
      const { store } = await counting();
      const claims = Array.from({ length: 40 }, () => claimOf());
      const tokens = await Promise.all(claims.map((claim) => acquire(store, claim)));
      const again = tokens.filter((_, n) => n % 2 === 0);
      await Promise.all(again.map((token) => store.settle(completion(token))));
      const answers = await Promise.all(tokens.map((token) => store.settle(completion(token))));
      const stale = { kind: "stale" };
      expect(answers).toEqual(tokens.map((_, n) => (n % 2 === 0 ? stale : SETTLED)));
      const renewals = await Promise.all(tokens.map((token) => store.renew(renewal(token))));
      expect(renewals).toEqual(tokens.map(() => stale));
    });

    it("SM-14: tells in one batch whose entry was appended, though one of them ended since", async () => {
      const { store } = await counting();
      const claims = Array.from({ length: 40 }, () => claimOf());
      const tokens = await Promise.all(claims.map((claim) => acquire(store, claim)));
      const ended = tokens.filter((_, n) => n % 2 === 0);
      await Promise.all(ended.map((token) => store.settle(release(token))));
      const entries = tokens.map((token) => ({ ...token, bytes: bytesOf(token.id) }));
      const answers = await Promise.all(entries.map((entry) => store.append!(entry)));
      expect(answers).toEqual(tokens.map((_, n) => (n % 2 === 0 ? { kind: "stale" } : SETTLED)));
      for (const [n, { id }] of tokens.entries()) {
        const journal = n % 2 === 0 ? null : bytesOf(id);
        expect(await store.read(id)).toMatchObject({ journal });
      }
    });

    it("SM-14: what is appended to one record at once stays in its order, with others between", async () => {
      const { store } = await counting();
      const claims = [claimOf(), claimOf()];
      const tokens = await Promise.all(claims.map((claim) => acquire(store, claim)));
      const pieces = Array.from({ length: 12 }, (_, n) =>
        randomBytes(n % 3 === 0 ? 300_000 : n + 1),
      );
      const appended = tokens.flatMap((token) =>
        pieces.map((bytes) => store.append!({ ...token, bytes })),
      );
      expect(await Promise.all(appended)).toEqual(appended.map(() => SETTLED));
      for (const { id } of claims) {
        const record = await store.read(id);
        expect(Buffer.concat(pieces).equals(record!.journal!)).toBe(true);
      }
    });

    it("SM-11: tells in one batch whose lease was renewed", async () => {
      const { store } = await counting();
      const claims = Array.from({ length: 40 }, () => claimOf());
      const tokens = await Promise.all(claims.map((claim) => acquire(store, claim)));
      const given = tokens.map((token, n) => (n % 3 === 0 ? { ...token, attempt: 2 } : token));
      const answers = await Promise.all(given.map((token) => store.renew(renewal(token))));
      expect(answers).toEqual(tokens.map((_, n) => (n % 3 === 0 ? { kind: "stale" } : RENEWED)));
    });

    it("refuses the record that MySQL refuses, and no other of its batch", async () => {
      await mysqlStore(pool, { table: "poisoned" }).migrate();
      await pool.query(`CREATE TRIGGER poison BEFORE INSERT ON poisoned_records FOR EACH ROW
        IF NEW.\`key\` = 'poison' THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'bad luck'; END IF`);
      const { store } = await counting("poisoned");
      const [one, poison, two] = await Promise.allSettled([
        store.begin(claimOf()),
        store.begin(claimOf({ key: "poison" })),
        store.begin(claimOf()),
      ]);
      expect([one, two]).toMatchObject([
        { value: { kind: "acquired" } },
        { value: { kind: "acquired" } },
      ]);
      expect(poison).toMatchObject({ reason: unusable(/bad luck/) });
    });

    it.each(["x", "g".repeat(32), "x'); DROP TABLE semel_records; --", "A".repeat(32)])(
      "refuses %j as an id, which is no literal",
      async (id) => {
        const { store } = await counting();
        const invalid = { code: "option-invalid" };
        await expect(store.read(id)).rejects.toMatchObject(invalid);
        await expect(store.delete(id)).rejects.toMatchObject(invalid);
        await expect(store.begin({ ...claimOf(), id })).rejects.toMatchObject(invalid);
        await expect(store.begin({ ...claimOf(), owner: id })).rejects.toMatchObject(invalid);
      },
    );
  });

  describe("as it keeps records", () => {
    beforeEach(() => fixture.admin.query(`DELETE FROM ${fixture.records}`));

    it("gives results as plain bytes of their own", async () => {
      const store = mysqlStore(pool);
      for (const length of [0, 1, 70_000]) {
        const result = new Uint8Array(length).fill(7);
        const claim = claimOf();
        await complete(store, claim, result);
        const answer = await store.begin(duplicateOf(claim));
        const read = await store.read(claim.id);
        for (const bytes of [answer.kind === "done" ? answer.result : null, read?.result]) {
          expect(bytes?.constructor).toBe(Uint8Array);
          expect(bytes?.buffer.byteLength).toBe(length);
          expect(bytes).toEqual(result);
        }
      }
    });

    it("keeps results and reasons of any length apart, written in one batch", async () => {
      const store = mysqlStore(pool);
      const lengths = [0, 1, 255, 256, 60_000, 65_535, 65_536, 66_000, 100_000, 131_072];
      const claims = [...lengths, ...lengths].map(() => claimOf());
      const tokens = await Promise.all(claims.map((claim) => acquire(store, claim)));
      const results = lengths.map((length) => randomBytes(length));
      const reasons = lengths.map((length) => `${length}:${"ü".repeat(length)}`);
      const endings = tokens.map((token, n) =>
        n < lengths.length
          ? completion(token, results[n]!)
          : hold(token, reasons[n - lengths.length]!),
      );
      expect(await Promise.all(endings.map((ending) => store.settle(ending)))).toEqual(
        endings.map(() => SETTLED),
      );
      const answers = await Promise.all(claims.map((claim) => store.begin(duplicateOf(claim))));
      for (const [n, result] of results.entries()) {
        assertReplay(answers[n]!, result);
        const held = { kind: "held", attempt: 1, reason: reasons[n] };
        expect(answers[n + lengths.length]).toEqual(held);
      }
    });

    it("tells case, accents and trailing spaces apart, in scopes, keys and fingerprints", async () => {
      const store = mysqlStore(fixture.pool({ charset: "latin1_swedish_ci" }));
      const scopes = ["a", "A", "á", "a ", "a\t", "ａ", "🎉", "ß", "ss", "İ", "i"];
      const claims = scopes.map((scope) => claimOf({ scope, key: "k" }));
      await Promise.all(claims.map((claim) => complete(store, claim, claim.scope)));
      for (const claim of claims) {
        assertReplay(await store.begin(duplicateOf(claim)), claim.scope);
        const { records } = await store.list({ scope: claim.scope, limit: 10 });
        expect(records.map(({ scope }) => scope)).toEqual([claim.scope]);
        for (const fingerprint of ["V1:PAYLOAD", "v1:payload ", "v1:páyload"]) {
          const answer = await store.begin(duplicateOf(claim, { fingerprint }));
          expect(answer).toEqual({ kind: "mismatch", fingerprint: claim.fingerprint });
        }
      }
    });

    it("keeps every character of a reason", async () => {
      const store = mysqlStore(pool);
      const text = `a 'b' "quoted" \\ \n é 🎉 ${"x".repeat(100_000)}`;
      const claim = claimOf();
      await store.settle(hold(await acquire(store, claim), text));
      expect(await store.begin(duplicateOf(claim))).toMatchObject({ kind: "held", reason: text });
    });

    it("lists what is readable around a damaged record, which may be deleted", async () => {
      const store = mysqlStore(pool);
      const claims = [claimOf(), claimOf(), claimOf()];
      for (const claim of claims) {
        await complete(store, claim);
        await fixture.elapse(1_000);
      }
      const [first, damaged, last] = claims as [
        (typeof claims)[0],
        (typeof claims)[0],
        (typeof claims)[0],
      ];
      await pool.query(`UPDATE semel_records SET result = NULL WHERE id = x'${damaged.id}'`);
      const { records } = await store.list({ limit: 10 });
      expect(records.map(({ key }) => key)).toEqual([last.key, first.key]);
      await expect(store.read(damaged.id)).rejects.toMatchObject({ code: "record-unreadable" });
      expect(await store.delete(damaged.id)).toEqual({ kind: "deleted" });
      await acquire(store, duplicateOf(damaged));
    });

    it.each(["", "0", "1.", `1.${"x".repeat(32)}`, "1e3.a", "1; DROP TABLE x"])(
      "refuses the cursor %j",
      async (cursor) => {
        await expect(mysqlStore(pool).list({ limit: 1, cursor })).rejects.toMatchObject({
          code: "option-invalid",
        });
      },
    );

    it.each([0, 1_001, 1.5])("refuses pages of %d", async (limit) => {
      await expect(mysqlStore(pool).list({ limit })).rejects.toMatchObject({
        code: "option-invalid",
      });
    });

    it("ST-9: sweepers on many connections remove all that expired, and nothing live", async () => {
      const store = mysqlStore(pool);
      const claims = Array.from({ length: 400 }, () => claimOf());
      await Promise.all(claims.map((claim) => acquire(store, claim)));
      await pool.query("UPDATE semel_records SET expires_at = 1 WHERE id < x'80'");
      const [[{ expired }]] = (await pool.query(
        "SELECT COUNT(*) AS expired FROM semel_records WHERE expires_at = 1",
      )) as never as [[{ expired: number }]];
      const sweepers = [store, mysqlStore(other), mysqlStore(fixture.pool())];
      let removed = 0;
      while (removed < expired) {
        const swept = await Promise.all(
          sweepers.flatMap((sweeper) => [sweeper.sweep(30), sweeper.sweep(30)]),
        );
        expect(Math.max(...swept)).toBeLessThanOrEqual(30);
        removed += swept.reduce((sum, count) => sum + count);
      }
      expect(removed).toBe(expired);
      expect((await store.stats()).states.running).toBe(400 - expired);
    });

    it("ST-9: sweeps more at once than one statement takes", async () => {
      const store = mysqlStore(pool);
      const claims = Array.from({ length: 2_300 }, () => claimOf());
      await Promise.all(claims.map((claim) => acquire(store, claim)));
      await pool.query("UPDATE semel_records SET expires_at = 1");
      expect(await store.sweep(2_200)).toBe(2_200);
      expect(await store.sweep(10_000)).toBe(100);
    });

    it("ST-9: reads what it looks up, sweeps, lists, counts and changes, and nothing else", async () => {
      const store = mysqlStore(pool);
      const claims = Array.from({ length: 1_000 }, () => claimOf());
      await Promise.all(claims.map((claim) => acquire(store, claim)));
      const tokens = claims.map((claim) => ({ ...claim, attempt: 1 }));
      await Promise.all(tokens.slice(20).map((token) => store.settle(completion(token))));
      await pool.query("ANALYZE TABLE semel_records");
      const connection = await pool.getConnection();
      /** How many rows of a table or an index the server touches. */
      const readsOf = async (statement: string) => {
        await connection.query("FLUSH STATUS");
        await connection.query(statement);
        const [rows] = await connection.query("SHOW SESSION STATUS LIKE 'Handler_read_%'");
        const counts = rows as { Variable_name: string; Value: string }[];
        const reads = counts.filter((row) => /_(key|next|prev)$/.test(row.Variable_name));
        return reads.reduce((sum, { Value }) => sum + Number(Value), 0);
      };
      const sql = statementsFor(tablesOf("semel"));
      const ids = claims.slice(0, 10).map(({ id }) => id);
      const none = { scope: undefined, olderThanMs: undefined, before: undefined, limit: 10 };
      try {
        expect(await readsOf(sql.find(ids, "whole"))).toBeLessThan(15);
        expect(await readsOf(sql.findExpired(10))).toBeLessThan(40);
        expect(await readsOf(sql.list({ ...none, state: undefined }))).toBeLessThan(15);
        expect(await readsOf(sql.list({ ...none, state: "held" }))).toBeLessThan(40);
        expect(await readsOf(sql.list({ ...none, state: "running" }))).toBeLessThan(40);
        expect(
          await readsOf(sql.renew(tokens.slice(0, 10).map((token) => renewal(token)))),
        ).toBeLessThan(40);
        const ending = completion(tokens[0]!);
        expect(await readsOf(sql.settle([ending], 1))).toBeLessThan(5);
        const [plan] = await connection.query(`EXPLAIN ${sql.countByState}`);
        const [finished, active] = plan as { key: string; Extra: string }[];
        expect([finished!.key, active!.key]).toEqual(["state", "state"]);
        expect(finished!.Extra).toMatch(/Using index$/);
      } finally {
        connection.release();
      }
    });
  });
});
