// Outbox → broker → inbox, with both sides killed again and again: each row of the outbox has one effect.

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { expect, test } from "vitest";
import { Idempotency } from "../../src/engine/idempotency.ts";
import { sqliteStore } from "../../src/stores/sqlite.ts";
import { type OpenDatabase, sqliteDrivers } from "../sqlite-drivers.ts";

const MESSAGES = 10_000;
/** How often each side is killed, at the latest when so many batches are through. */
const KILLS = 2;

export interface ExactlyOnce {
  /** As `brokers.mjs` calls it. */
  readonly broker: string;
  /** Whether the outbox is what operations recorded as effects. @default a table of the test's own */
  readonly isRelay?: boolean;
  /** @default 10,000 */
  readonly messages?: number;
  readonly missing: string | undefined;
  /** Makes a topic. */
  open(): Promise<{ address: object; close(): Promise<void> }>;
}

export function exactlyOnce(given: ExactlyOnce): void {
  const { broker, missing, open, isRelay = false, messages = MESSAGES } = given;
  const skipped = missing ? ` (skipped: ${missing})` : "";
  test.skipIf(missing !== undefined)(
    `MSG-2: ${messages} effects have one effect each, from ${isRelay ? "relay" : "outbox"} to inbox, with kills on both sides${skipped}`,
    { timeout: 240_000 },
    async () => {
      const folder = mkdtempSync(join(tmpdir(), "semel-exactly-once-"));
      const [outbox, ledger] = [databaseIn(folder, "outbox"), databaseIn(folder, "ledger")];
      const topic = await open();
      const sides: Side[] = [];
      try {
        await (isRelay ? record(outbox, messages) : fill(outbox, messages));
        await sqliteStore(ledger).migrate();
        ledger.exec("CREATE TABLE effects (position INTEGER PRIMARY KEY, body TEXT)");
        const settings = { broker, address: topic.address, isRelay };
        const relay = new Side("relay-process.mjs", {
          ...settings,
          database: join(folder, "outbox.db"),
        });
        const inbox = new Side("inbox-process.mjs", {
          ...settings,
          database: join(folder, "ledger.db"),
        });
        sides.push(relay, inbox);
        await Promise.all([relay.run(), inbox.run()]);
        await untilHandled(ledger, messages);
        // What was published twice has come twice by now, or is known to be a duplicate.
        expect(countOf(ledger, "SELECT count(*) AS n FROM effects")).toBe(messages);
        expect(countOf(ledger, "SELECT count(DISTINCT body) AS n FROM effects")).toBe(messages);
        expect(relay.kills + inbox.kills).toBe(2 * KILLS);
      } finally {
        await Promise.all(sides.map((side) => side.end()));
        await topic.close();
        for (const database of [outbox, ledger]) database.close();
        rmSync(folder, { recursive: true, force: true });
      }
    },
  );
}

/** A process that is killed some times, each time after it has got somewhere, and then left alone. */
class Side {
  readonly #script: string;
  readonly #settings: object;
  #child: ChildProcess | undefined;
  kills = 0;

  constructor(script: string, settings: object) {
    this.#script = join(import.meta.dirname, script);
    this.#settings = settings;
  }

  /** Resolves once it has been killed often enough, and goes on by itself. */
  async run(): Promise<void> {
    while (this.kills < KILLS) {
      const child = this.#start();
      // A few batches, so that it is in the midst of one.
      let left = 2 + this.kills;
      for await (const line of createInterface({ input: child.stdout! })) {
        if (line !== "ready" && --left === 0) break;
      }
      child.kill("SIGKILL");
      await ended(child);
      this.kills++;
    }
    this.#start();
  }

  #start(): ChildProcess {
    const settings = JSON.stringify(this.#settings);
    const child = spawn(process.execPath, ["--no-warnings", this.#script, settings], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    // So that it never waits for somebody to read.
    if (this.kills === KILLS) child.stdout.resume();
    this.#child = child;
    return child;
  }

  async end(): Promise<void> {
    const child = this.#child;
    if (child === undefined) return;
    child.kill("SIGKILL");
    await ended(child);
  }
}

async function ended(child: ChildProcess): Promise<void> {
  if (child.exitCode === null && child.signalCode === null) await once(child, "exit");
}

function databaseIn(folder: string, name: string): OpenDatabase {
  const database = sqliteDrivers[0]!.open(join(folder, `${name}.db`));
  database.exec("PRAGMA journal_mode = WAL; PRAGMA busy_timeout = 5000");
  return database;
}

function fill(outbox: OpenDatabase, messages: number): void {
  outbox.exec(
    `CREATE TABLE outbox (position INTEGER PRIMARY KEY, id TEXT UNIQUE, operation TEXT, body TEXT,
       published INTEGER NOT NULL DEFAULT 0);
     WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < ${messages})
     INSERT INTO outbox (id, operation, body)
       SELECT lower(hex(randomblob(16))), 'order-' || n, 'body-' || n FROM numbers`,
  );
}

/** Operations that record an effect each. */
async function record(outbox: OpenDatabase, messages: number): Promise<void> {
  const store = sqliteStore(outbox, { synchronous: "normal" });
  await store.migrate();
  const idempotency = new Idempotency({ store, cache: false, sweep: false });
  const place = (key: string) =>
    idempotency.run({ key, scope: "shop" }, async (operation) => {
      await operation.effect("order-placed", { body: key });
    });
  await Promise.all(Array.from({ length: messages }, (_, index) => place(`order-${index}`)));
}

function countOf(database: OpenDatabase, sql: string): number {
  return Number((database.prepare(sql).all() as { n: number }[])[0]!.n);
}

async function untilHandled(ledger: OpenDatabase, messages: number): Promise<void> {
  for (;;) {
    if (countOf(ledger, "SELECT count(*) AS n FROM effects") >= messages) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}
