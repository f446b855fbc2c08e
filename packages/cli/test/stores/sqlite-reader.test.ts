// Reading a SQLite file in a thread of its own, so that a count keeps no request waiting.

import { join } from "node:path";
import { Idempotency } from "semel";
import { afterEach, expect, test } from "vitest";
import { openStore } from "../../src/stores/open.ts";
import { cleanUp, folder, later } from "../processes.ts";

afterEach(cleanUp);

const DIST = new URL("../../dist/stores/sqlite-reader.js", import.meta.url).href;

async function reading(path: string) {
  // As it is built: a thread loads its module by itself.
  const { SqliteReader, isFile } = (await import(
    /* @vite-ignore */ DIST
  )) as typeof import("../../src/stores/sqlite-reader.ts");
  const reader = new SqliteReader(path, undefined);
  later(() => reader.close());
  return { reader, isFile };
}

async function filled(): Promise<string> {
  const path = join(await folder(), "semel.db");
  const open = await openStore({ store: `sqlite:${path}` }, "migrate");
  await open.migrate();
  const idempotency = new Idempotency({ store: open.store, cache: false, sweep: false });
  for (let n = 0; n < 5; n++) await idempotency.run({ key: `k${n}`, scope: "a" }, () => ({ n }));
  await open.close();
  return path;
}

test("records, lists and counts come from the thread as from the store itself", async () => {
  const path = await filled();
  const { reader } = await reading(path);
  const open = await openStore({ store: `sqlite:${path}` }, "administer");
  later(() => open.close());
  const { states } = await reader.store.stats();
  expect(states).toEqual((await open.store.stats()).states);
  const page = await reader.store.list({ limit: 2 });
  expect(page.records.map(({ key }) => key)).toEqual(["k4", "k3"]);
  const next = await reader.store.list({ limit: 2, cursor: page.cursor! });
  expect(next.records.map(({ key }) => key)).toEqual(["k2", "k1"]);
  const { id } = page.records[0]!;
  const [here, there] = [await open.store.read(id), await reader.store.read(id)];
  expect(Buffer.from(there!.result!).equals(here!.result!)).toBe(true);
  expect(await reader.store.read("0".repeat(32))).toBeUndefined();
});

test("the event loop goes on while the thread counts", async () => {
  const { reader } = await reading(await filled());
  let turns = 0;
  let isCounted = false;
  const count = reader.store.stats().then(() => {
    isCounted = true;
  });
  const turn = () => {
    turns++;
    if (!isCounted) setImmediate(turn);
  };
  setImmediate(turn);
  await count;
  expect(turns).toBeGreaterThan(0);
});

test("errors keep their codes, and a thread that has ended is an error, not a wait", async () => {
  const { reader, isFile } = await reading(await filled());
  await expect(reader.store.list({ limit: 1, cursor: "nonsense?" })).rejects.toMatchObject({
    code: "option-invalid",
  });
  await reader.close();
  await expect(reader.store.stats()).rejects.toMatchObject({ code: "store-unavailable" });
  expect([isFile(":memory:"), isFile("file:x?mode=memory"), isFile("/no/such.db")]).toEqual([
    false,
    false,
    false,
  ]);
});
