// `semel/node` against the conformance suite of frameworks, over the memory store and over SQLite.

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, test } from "vitest";
import { sqliteStore } from "../../src/stores/sqlite.ts";
import {
  type FrameworkHarness,
  frameworkCases,
  reasonToSkip,
} from "../../src/testing/framework-suite/index.ts";
import { sqliteDrivers } from "../sqlite-drivers.ts";
import { nodeHarness } from "./node-harness.ts";

describe("semel/node", () => {
  for (const frameworkCase of frameworkCases) {
    if (reasonToSkip(frameworkCase, nodeHarness) !== undefined) continue;
    test(frameworkCase.name, () => frameworkCase.run(nodeHarness));
  }
});

for (const driver of sqliteDrivers) {
  const harness: FrameworkHarness = {
    ...nodeHarness,
    cannot: { ...nodeHarness.cannot, "moving-clock": "SQLite judges time by the system's clock" },
    async openStore() {
      const folder = await mkdtemp(join(tmpdir(), "semel-node-"));
      const database = driver.open(join(folder, "semel.db"));
      const store = sqliteStore(database);
      await store.migrate();
      const close = async () => {
        database.close();
        await rm(folder, { recursive: true, force: true });
      };
      return { store, close };
    },
  };
  // What depends on when the store answers: it does so turns of the event loop later.
  const dependent = /^(SM|EN)-/;

  describe(`semel/node over ${driver.name}`, () => {
    for (const frameworkCase of frameworkCases) {
      if (!dependent.test(frameworkCase.name)) continue;
      if (reasonToSkip(frameworkCase, harness) !== undefined) continue;
      test(frameworkCase.name, () => frameworkCase.run(harness));
    }
  });
}
