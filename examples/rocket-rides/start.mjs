// Books three rides, kills the worker that is about to charge one of them, and says what came of it.
// DATABASE=postgres://… has it run on Postgres instead of a file.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { Idempotency } from "semel";
import { ridesApi } from "./api.mjs";
import { openDatabase } from "./database.mjs";
import { rocketRides } from "./rides.mjs";

const folder = mkdtempSync(join(tmpdir(), "rocket-rides-"));
const DATABASE = process.env.DATABASE ?? `sqlite:${join(folder, "rides.db")}`;
/** @type {import("node:child_process").ChildProcess[]} */
const children = [];
process.on("exit", () => {
  for (const child of children) child.kill("SIGKILL");
  rmSync(folder, { recursive: true, force: true });
});

/**
 * @param {string} file
 * @param {Record<string, string>} env
 */
function start(file, env) {
  const path = fileURLToPath(new URL(file, import.meta.url));
  const child = spawn(process.execPath, ["--no-warnings", path], {
    env: { ...process.env, ...env },
    stdio: ["ignore", "pipe", "inherit"],
  });
  children.push(child);
  const lines = createInterface(child.stdout);
  lines.on("line", (line) => console.log(`  ${line}`));
  return { child, lines };
}

console.log("The provider starts:");
const provider = start("provider.mjs", {});
const [listening] = await once(provider.lines, "line");
const PROVIDER = /http\S+/.exec(listening)[0];

const { store, rides, close } = await openDatabase(DATABASE);
const { ride } = rocketRides({
  idempotency: new Idempotency({ store }),
  rides,
  provider: PROVIDER,
});
const api = ridesApi(ride);
api.listen(0, "127.0.0.1");
await once(api, "listening");
const { port } = /** @type {import("node:net").AddressInfo} */ (api.address());

/**
 * @param {string} key
 * @param {import("./rides.mjs").RideInput} input
 */
async function book(key, input) {
  const response = await fetch(`http://127.0.0.1:${port}/rides`, {
    method: "POST",
    headers: { "Idempotency-Key": key },
    body: JSON.stringify(input),
  });
  const { started, code } = await response.json();
  console.log(
    `Booked ${key}: ${response.status} ${code ?? (started ? "started" : "known already")}`,
  );
}

/** @param {string} key */
async function ended(key) {
  for (;;) {
    const response = await fetch(`http://127.0.0.1:${port}/rides/${key}`);
    const { state, attempt, error } = await response.json();
    if (state === "completed" || state === "failed" || state === "held") {
      return `${key}: ${state} in attempt ${attempt}${error ? ` (${error})` : ""}`;
    }
    await delay(100);
  }
}

await book("ride-moon", { rider: "Ada", to: "Moon", amount: 500 });
await book("ride-moon", { rider: "Ada", to: "Moon", amount: 500 });
await book("ride-moon", { rider: "Ada", to: "Moon", amount: 900 });

console.log("A worker starts, and is killed as soon as the provider has charged:");
const charged = new Promise((resolve) => {
  provider.lines.on("line", (line) => line.includes("charges for ride-moon") && resolve(line));
});
const first = start("worker.mjs", { DATABASE, PROVIDER });
await charged;
first.child.kill("SIGKILL");
console.log("  (killed)");

console.log("Two others go on:");
const workers = [1, 2].map(() => start("worker.mjs", { DATABASE, PROVIDER }));
await book("ride-mars", { rider: "Grace", to: "Mars", amount: 700 });
await book("ride-dear", { rider: "Edsger", to: "Moon", amount: 2_000 });
const ends = await Promise.all(["ride-moon", "ride-mars", "ride-dear"].map(ended));

const idempotency = new Idempotency({ store });
while ((await idempotency.effects.stats()).waiting > 0) await delay(100);
for (const { child } of workers) child.kill("SIGTERM");
await Promise.all(workers.map(({ child }) => once(child, "exit")));

console.log("What became of them:");
for (const end of ends) console.log(`  ${end}`);
for (const { id, state, charge } of await rides.all()) {
  console.log(`  ${id} is ${state}${charge ? `, paid by ${charge}` : ""}`);
}
console.log("What the provider did:");
const ledger = await (await fetch(PROVIDER)).json();
for (const { path, ride, times } of ledger) {
  console.log(`  ${path.slice(1)} for ${ride}, asked ${times === 1 ? "once" : `${times} times`}`);
}
api.close();
api.closeAllConnections();
provider.child.kill();
await close();
