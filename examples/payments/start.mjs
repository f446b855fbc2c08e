// Starts the payments service and the gateway in front of it, and says what to try. `npm start` runs
// it; SEMEL_LISTEN=HOST:PORT chooses another address, Ctrl-C ends it.

import { spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { paymentsApi } from "./api.mjs";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const SEMEL = join(ROOT, "packages", "cli", "dist", "main.js");
const LISTEN = process.env.SEMEL_LISTEN ?? "127.0.0.1:8080";
const FOLDER = process.env.SEMEL_FOLDER ?? join(ROOT, ".semel");

const api = paymentsApi((line) => console.log(line));
api.listen(0, "127.0.0.1");
await once(api, "listening");
const { port } = /** @type {import("node:net").AddressInfo} */ (api.address());

mkdirSync(FOLDER, { recursive: true });
const gateway = spawn(
  process.execPath,
  [
    SEMEL,
    "gateway",
    ...["--upstream", `http://127.0.0.1:${port}`],
    ...["--listen", LISTEN],
    ...["--store", `sqlite:${join(FOLDER, "payments.db")}`],
    ...["--log", "pretty"],
  ],
  {
    stdio: ["ignore", "pipe", "inherit"],
    // A process group of its own: Ctrl-C would reach it twice, and the second time means "at once".
    detached: true,
  },
);

/** @type {number | undefined} */
let stoppingSince;
for (const signal of /** @type {const} */ (["SIGINT", "SIGTERM"])) {
  process.on(signal, () => {
    // npm passes Ctrl-C on to us although the terminal has done so, too.
    if (stoppingSince !== undefined && performance.now() - stoppingSince < 500) return;
    stoppingSince ??= performance.now();
    gateway.kill(signal);
  });
}
// However this process ends, the gateway does not stay behind.
process.on("exit", () => gateway.kill());

createInterface(gateway.stdout).on("line", (line) => {
  const address = /^Listening on (\S+),/.exec(line)?.[1];
  if (address) invite(address);
  else console.log(`gateway: ${line}`);
});

gateway.once("exit", (code) => {
  api.close();
  api.closeAllConnections();
  if (code !== 0 && stoppingSince === undefined) {
    console.error(
      `The gateway could not run on ${LISTEN}. To choose another address: SEMEL_LISTEN=127.0.0.1:8081 npm start`,
    );
  }
  process.exitCode = code ?? 1;
});

/** @param {string} address */
function invite(address) {
  const url = `${address}/payments`;
  const key = randomUUID();
  const pay = (/** @type {number} */ amount) =>
    `curl -i ${url} -H 'Authorization: Bearer demo' -H 'Idempotency-Key: ${key}' -H 'Content-Type: application/json' -d '{"amount": ${amount}, "currency": "EUR"}'`;
  console.log(`
A payments service that charges on every POST is running, and the Semel gateway in front of it:
${address}

1. Pay:
   ${pay(1200)}

2. Pay again with the same key: the same answer, "Idempotent-Replayed: true", and no second charge:
   ${pay(1200)}

3. The same key with another amount: 422, and nothing is charged:
   ${pay(9900)}

The charges there are:  curl ${url}
Every fourth charge loses its answer: the gateway says 502 outcome-unknown, and retries of that key get
409 instead of a second charge. Pay with new keys until you see it.
Ctrl-C ends it.
`);
}
