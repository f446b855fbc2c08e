// `semel/node` against the conformance suite of frameworks, over the memory store and over SQLite.

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { describe, expect, test } from "vitest";
import { Idempotency } from "../../src/engine/idempotency.ts";
import { idempotent, type NodeHandler } from "../../src/frameworks/node.ts";
import { memoryStore } from "../../src/stores/memory.ts";
import { sqliteStore } from "../../src/stores/sqlite.ts";
import {
  type FrameworkHarness,
  field,
  frameworkCases,
  reasonToSkip,
  send,
} from "../../src/testing/framework-suite/index.ts";
import { sqliteDrivers } from "../sqlite-drivers.ts";
import { closedGate } from "./gate.ts";
import { nodeHarness } from "./node-harness.ts";
import { listen } from "./node-server.ts";

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

describe("SM-24: an answer of 503 while the handler is at work", () => {
  /** How the key ends of a handler that is given 20 ms. */
  async function statusAfter(handler: NodeHandler): Promise<string | undefined> {
    const idempotency = new Idempotency({ store: memoryStore() });
    const guarded = idempotent(idempotency, { scope: "shared" }, handler);
    const served = await listen((request, response) => {
      const limit = setTimeout(() => response.writeHead(503).end("too late"), 20);
      response.on("close", () => clearTimeout(limit));
      void guarded(request, response);
    });
    const reply = await send(served.port, { path: "/", headers: { "idempotency-key": "k" } });
    expect(reply.status).toBe(503);
    await served.close();
    return field(reply, "idempotency-status");
  }

  test("by somebody outside holds the key", async () => {
    const gate = closedGate();
    expect(await statusAfter(() => gate.opened)).toBe("unknown");
    gate.open();
  });

  /** How a handler answers by itself, and when it has ended. */
  const OWN: Record<string, NodeHandler> = {
    "and returns": async (_, response) => {
      response.writeHead(503).end("down");
      await Promise.resolve();
    },
    "and waits until it has left": (_, response) =>
      new Promise<void>((resolve) => {
        response.writeHead(503).end("down", resolve);
      }),
    "by a pipeline": (_, response) => pipeline(Readable.from(["down"]), response.writeHead(503)),
    "by an empty pipeline": (_, response) => pipeline(Readable.from([]), response.writeHead(503)),
  };
  for (const [how, handler] of Object.entries(OWN)) {
    test(`by the handler itself, ${how}, releases it`, async () => {
      expect(await statusAfter(handler)).toBe("released");
    });
  }
});
