// The package as built, in a process of its own: nothing of it keeps that process alive (EN-14).

import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { expect, test } from "vitest";

const run = promisify(execFile);
const dist = (file: string) => JSON.stringify(new URL(`../../dist/${file}`, import.meta.url).href);

const PROGRAM = `
import { Idempotency } from ${dist("index.js")};
import { memoryStore } from ${dist("stores/memory.js")};
const idempotency = new Idempotency({ store: memoryStore(), sweep: { every: "10s" } });
const { value } = await idempotency.run({ key: "done" }, async () => "ran");
await idempotency.run({ key: "open" }, () => { throw new Error("no"); }).catch(() => {});
// A heartbeat, a waiter, a sweeper and a claim on a dead store are all still there at the end.
void idempotency.run({ key: "running" }, () => new Promise(() => {}));
void idempotency.run({ key: "running", wait: "1h" }, () => {});
const dead = new Proxy(memoryStore(), {
  get: (store, name) => name === "begin" ? () => new Promise(() => {}) : store[name],
});
void new Idempotency({ store: dead, storeTimeout: "1h" }).run({ key: "k" }, () => {});
await new Promise((resolve) => setImmediate(resolve));
void idempotency.close({ deadline: "1h" });
console.log(value);
`;

test("a program that has nothing more to do ends by itself (EN-14)", async () => {
  const { stdout, stderr } = await run(
    process.execPath,
    ["--input-type=module", "--eval", PROGRAM],
    { cwd: fileURLToPath(new URL("../..", import.meta.url)), timeout: 20_000 },
  );
  expect(stderr).toBe("");
  expect(stdout).toBe("ran\n");
});
