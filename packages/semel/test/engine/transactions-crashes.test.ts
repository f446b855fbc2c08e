// Real processes that are killed in a transaction: nothing is left of it, or all of it.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { afterAll, afterEach, beforeEach, describe, expect, test } from "vitest";
import { Idempotency } from "../../src/engine/idempotency.ts";
import {
  type Client,
  closeServers,
  mysqlBackend,
  pgBackend,
  type Stage,
  sqliteBackends,
} from "./transaction-backends.ts";

afterAll(closeServers);

const SCRIPT = join(import.meta.dirname, "transaction-process.mjs");

describe.each([pgBackend, mysqlBackend, ...sqliteBackends])("kill -9 on $name", (backend) => {
  let stage: Stage;
  let client: Client;

  beforeEach(async (context) => {
    context.skip(backend.reason !== undefined, backend.reason);
    stage = await backend.open();
    client = await stage.connect();
  });

  afterEach(async () => {
    await client.end();
    await stage.close();
  });

  /** A process that runs the operation, and is killed at a point. */
  async function killedAt(stop: string, key: string): Promise<void> {
    const settings = JSON.stringify({ ...stage.address, key, stop });
    const child = spawn(process.execPath, ["--no-warnings", SCRIPT, settings], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    const ended = once(child, "exit");
    for await (const line of createInterface({ input: child.stdout })) {
      expect(line).toBe(stop);
      child.kill("SIGKILL");
    }
    expect(await ended).toEqual([null, "SIGKILL"]);
  }

  /** The next duplicate. */
  function ask(key: string) {
    const idempotency = new Idempotency({ store: client.store, sweep: false });
    return idempotency.transaction({ key }, async (transaction) => {
      await client.insert(transaction, `${key} again`);
      return { by: "the duplicate" };
    });
  }

  test.each(["in-handler", "before-commit"])(
    "%s leaves nothing, and the next duplicate runs",
    async (stop) => {
      await killedAt(stop, "k");
      expect(await ask("k")).toEqual({
        value: { by: "the duplicate" },
        replayed: false,
        attempt: 1,
      });
      expect(await stage.skus()).toEqual(["k again"]);
    },
  );

  test("after-commit leaves all of it, and the next duplicate is a replay", async () => {
    await killedAt("after-commit", "k");
    const value = { by: "the one that was killed" };
    expect(await ask("k")).toEqual({ value, replayed: true, attempt: 1 });
    expect(await stage.skus()).toEqual(["k"]);
  });
});
