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

const SERVICES = `
import { Idempotency } from ${dist("index.js")};
import { memoryStore } from ${dist("stores/memory.js")};
const idempotency = new Idempotency({ store: memoryStore() });
const job = idempotency.operation("job", {
  handler: async (_input, { effect }) => void (await effect("mail", "sent")),
});
const worker = idempotency.worker({ operations: [job] });
const relay = idempotency.relay({ mail: ({ payload }) => console.log(payload) });
`;

test("workers and relays keep their process alive until they are closed, and not longer", async () => {
  const program = `${SERVICES}
    process.once("SIGTERM", () => void idempotency.close());
    // Nothing else is there to keep it: the process lives through its timers, and what comes then.
    setTimeout(() => void job.start({ key: "k" }), 500).unref();
    setTimeout(() => process.kill(process.pid, "SIGTERM"), 1_500).unref();
    await Promise.all([worker.closed, relay.closed]);
    console.log("closed");`;
  const { stdout, stderr } = await run(
    process.execPath,
    ["--input-type=module", "--eval", program],
    { timeout: 20_000 },
  );
  expect(stderr).toBe("");
  expect(stdout).toBe("sent\nclosed\n");
});

test("a script drains what is due and ends", async () => {
  const program = `${SERVICES}
    await job.start({ key: "k" });
    await worker.drain();
    await relay.drain();
    await idempotency.close();`;
  const { stdout } = await run(process.execPath, ["--input-type=module", "--eval", program], {
    timeout: 20_000,
  });
  expect(stdout).toBe("sent\n");
});

test("a script learns of a store that is down, and of one that comes back before it gives up", async () => {
  const program = `
    import { Idempotency } from ${dist("index.js")};
    import { memoryStore } from ${dist("stores/memory.js")};
    const broken = (method, times) => {
      let calls = 0;
      const store = memoryStore();
      return new Proxy(store, {
        get: (_, name) => name !== method ? store[name].bind?.(store) ?? store[name] : async (...given) => {
          if (calls++ < times) throw Object.assign(new Error("refused"), { code: "ECONNREFUSED" });
          return store[method](...given);
        },
      });
    };
    const main = async () => {
      const down = new Idempotency({ store: broken("begin", Infinity) });
      await down.run({ key: "k" }, () => {}).catch(({ code }) => console.log(code));
      const brief = new Idempotency({ store: broken("settle", 6) });
      const { value } = await brief.run({ key: "k" }, () => "receipt");
      console.log(value, (await brief.status({ key: "k" })).state);
    };
    main();`;
  const { stdout, stderr } = await run(
    process.execPath,
    ["--input-type=module", "--eval", program],
    { timeout: 20_000 },
  );
  expect(stderr).toBe("");
  expect(stdout).toBe("store-unavailable\nreceipt completed\n");
});

test("a program that has nothing more to do ends by itself (EN-14)", async () => {
  const { stdout, stderr } = await run(
    process.execPath,
    ["--input-type=module", "--eval", PROGRAM],
    { cwd: fileURLToPath(new URL("../..", import.meta.url)), timeout: 20_000 },
  );
  expect(stderr).toBe("");
  expect(stdout).toBe("ran\n");
});
