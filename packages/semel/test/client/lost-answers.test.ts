// Connections that break at every byte of the request and of the answer: one effect, one answer, and
// the same bytes in every attempt.

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, onTestFinished, test } from "vitest";
import { createClient } from "../../src/client/index.ts";
import type { Store } from "../../src/store.ts";
import { memoryStore } from "../../src/stores/memory.ts";
import { sqliteStore } from "../../src/stores/sqlite.ts";
import { sqliteDrivers } from "../sqlite-drivers.ts";
import { type Cut, cuttingProxy, FAST, paymentService, rawServer } from "./fixture.ts";

const STORES: Record<string, () => Promise<Store>> = {
  memory: async () => memoryStore(),
  SQLite: async () => {
    const folder = mkdtempSync(join(tmpdir(), "semel-client-"));
    const database = sqliteDrivers[0]!.open(join(folder, "semel.db"));
    const store = sqliteStore(database, { synchronous: "normal" });
    await store.migrate();
    onTestFinished(() => {
      database.close();
      rmSync(folder, { recursive: true });
    });
    return store;
  },
};

describe.each(Object.keys(STORES))("before a service over %s", (name) => {
  const hows: Cut["how"][] = name === "memory" ? ["reset", "end"] : ["reset"];

  async function payAtEveryByte(how: Cut["how"], part: "request" | "response") {
    const service = await paymentService({
      store: await STORES[name]!(),
      // Each request on a connection of its own, so that each cut meets its request.
      front: (_request, response) => {
        response.shouldKeepAlive = false;
        return false;
      },
    });
    const proxy = await cuttingProxy(service.port);
    let calls = 0;
    for (let attempts = 2; attempts > 1; calls++) {
      const before = service.seen.length;
      const body = `amount=${calls}`;
      let sent = 0;
      proxy.cuts.push({ [part]: calls, how });
      const response = await createClient({
        retry: FAST,
        onEvent: ({ type }) => {
          if (type === "attempt") sent++;
        },
      })(proxy.url, { method: "POST", body });
      expect(await response.json()).toEqual({ payment: calls + 1, order: body });
      expect(response.status).toBe(201);
      attempts = sent;
      const seen = service.seen.slice(before);
      expect(new Set(seen.map(({ headers }) => headers["idempotency-key"])).size).toBe(1);
      expect(new Set(seen.map(({ headers }) => headers["repeatability-first-sent"])).size).toBe(1);
    }
    expect(service.payments).toEqual(Array.from({ length: calls }, (_, call) => `amount=${call}`));
    // It was cut everywhere: the loop ended only when there was no more to cut.
    expect(calls).toBeGreaterThan(200);
  }

  test.each(hows)(
    "an answer that is lost at any byte (%s) is asked for again, and paid once",
    (how) => payAtEveryByte(how, "response"),
    300_000,
  );

  test.each(hows)(
    "a request that is lost at any byte (%s) is sent again, and paid once",
    (how) => payAtEveryByte(how, "request"),
    300_000,
  );
});

test("with `stream: true` an answer that breaks off is the caller's: the call is not repeated", async () => {
  const url = await rawServer((socket) => {
    socket.once("data", () => {
      socket.end("HTTP/1.1 201 Created\r\ncontent-length: 9\r\nconnection: close\r\n\r\nhalf");
    });
  });
  const idempotency = { stream: true };
  const response = await createClient({ retry: FAST })(url, { method: "POST", idempotency });
  expect(response.status).toBe(201);
  await expect(response.text()).rejects.toThrow(TypeError);
});

test("an answer above `maxResponseBytes` that breaks off beyond it is the caller's", async () => {
  const url = await rawServer((socket) => {
    socket.once("data", () => {
      const head = "HTTP/1.1 201 Created\r\ncontent-length: 99\r\nconnection: close\r\n\r\n";
      socket.end(`${head}${"x".repeat(50)}`);
    });
  });
  const client = createClient({ retry: { ...FAST, attemptsMax: 2 }, maxResponseBytes: 40 });
  const response = await client(url, { method: "POST" });
  await expect(response.text()).rejects.toThrow(TypeError);
  const whole = createClient({ retry: { ...FAST, attemptsMax: 2 }, maxResponseBytes: 50 });
  await expect(whole(url, { method: "POST" })).rejects.toMatchObject({ code: "no-answer" });
});
