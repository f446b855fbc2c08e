// Keeps a gateway busy over many connections for a long time, in front of a service that fails in every way
// it can, and looks whether memory and open handles stay flat and whether anything happened twice.
//
//   node scripts/soak.mjs          ten minutes; SOAK_SECONDS and SOAK_CONNECTIONS change that
//
// It ends with 0 when all is well, and prints what it measured as JSON.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { Agent, createServer, request as httpRequest } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as delay } from "node:timers/promises";

const SECONDS = Number(process.env.SOAK_SECONDS ?? 600);
const CONNECTIONS = Number(process.env.SOAK_CONNECTIONS ?? 200);
/** How much the last quarter may be above the second one; the first one warms up. */
const GROWTH_MAX = 0.15;
/** What is left open when everybody has gone, beyond what was open before. */
const HANDLES_LEFT_MAX = 10;
const MAIN = join(import.meta.dirname, "../dist/main.js");

const folder = mkdtempSync(join(tmpdir(), "semel-soak-"));
const effects = new Map();
const service = createServer(serve);
service.keepAliveTimeout = 5_000;
service.listen(0, "127.0.0.1");
await once(service, "listening");
const servicePort = service.address().port;
const gateway = await start();
const agent = new Agent({ keepAlive: true, maxSockets: CONNECTIONS });
const answers = {};
const samples = [];
const endsAt = performance.now() + SECONDS * 1_000;
let nextKey = 0;
try {
  const before = measured();
  const sampling = setInterval(() => samples.push(measured()), Math.min(1_000, SECONDS * 25));
  const restarting = setInterval(() => service.closeAllConnections(), 5_000);
  await Promise.all(Array.from({ length: CONNECTIONS }, drive));
  clearInterval(sampling);
  clearInterval(restarting);
  agent.destroy();
  // Connections to the service are let go when they have been idle for a second.
  let after = measured();
  for (let tries = 0; tries < 100 && after.handles > before.handles + HANDLES_LEFT_MAX; tries++) {
    await delay(100);
    after = measured();
  }
  report(before, after);
} finally {
  agent.destroy();
  gateway.child.kill("SIGTERM");
  await once(gateway.child, "exit");
  service.close();
  service.closeAllConnections();
  rmSync(folder, { recursive: true, force: true });
}

/** A service that does its work, in one of many ways. */
function serve(request, response) {
  const key = request.headers["idempotency-key"];
  const chance = Math.random();
  request.on("error", () => {});
  response.on("error", () => {});
  if (chance < 0.03) return request.socket.destroy();
  if (chance < 0.05) return response.writeHead(422).end("before the body was read");
  request.resume().on("end", async () => {
    // An answer that is not kept says that nothing was done.
    if (chance < 0.1) return response.writeHead(503).end("later");
    if (key !== undefined) effects.set(key, (effects.get(key) ?? 0) + 1);
    if (chance < 0.13) return request.socket.destroy();
    if (chance < 0.16) return response.socket?.end("nonsense\r\n\r\n");
    if (chance < 0.19) {
      response.writeHead(201, { "content-length": 1_000 });
      return response.write("half", () => request.socket.destroy());
    }
    if (chance < 0.195) return undefined;
    if (chance < 0.25) await delay(200 * Math.random());
    if (chance < 0.3) {
      for (let part = 0; part < 8; part++) response.write("x".repeat(16_384));
      return response.end();
    }
    response.writeHead(201, { "content-type": "application/json" }).end('{"charged":true}');
  });
}

async function start() {
  const child = spawn(
    process.execPath,
    [
      ...[MAIN, "gateway", "--upstream", `http://127.0.0.1:${servicePort}`],
      ...["--listen", "127.0.0.1:0", "--store", `sqlite:${join(folder, "semel.db")}`],
      ...["--scope", "shared", "--upstream-timeout", "2s", "--lease", "5s", "--log", "none"],
    ],
    { stdio: ["ignore", "pipe", "inherit"] },
  );
  for await (const line of createInterface(child.stdout)) {
    const found = /Listening on http:\/\/127\.0\.0\.1:(\d+)/.exec(line);
    if (found) return { child, port: Number(found[1]) };
  }
  throw new Error("the gateway did not start");
}

/** One client: new keys, repeated ones, none; now and then it leaves before the answer. */
async function drive() {
  while (performance.now() < endsAt) {
    const chance = Math.random();
    const key =
      chance < 0.2
        ? undefined
        : `k${chance < 0.5 ? Math.floor(nextKey * Math.random()) : nextKey++}`;
    const answer = await send(key, chance > 0.97);
    answers[answer] = (answers[answer] ?? 0) + 1;
  }
}

function send(key, isLeaving) {
  return new Promise((resolve) => {
    const headers = { "content-type": "text/plain", ...(key && { "idempotency-key": key }) };
    const options = { port: gateway.port, host: "127.0.0.1", method: "POST", path: "/pay" };
    const request = httpRequest({ ...options, agent, headers }, (response) => {
      response.on("error", () => resolve("broken off"));
      response.resume().on("end", () => resolve(String(response.statusCode)));
    });
    request.on("error", () => resolve(isLeaving ? "left" : "broken off"));
    request.end("x".repeat(200));
    if (isLeaving) setTimeout(() => request.destroy(), 5);
  });
}

function measured() {
  const { pid } = gateway.child;
  const status = readFileSync(`/proc/${pid}/status`, "latin1");
  return {
    mib: Number(/VmRSS:\s+(\d+)/.exec(status)[1]) / 1_024,
    handles: readdirSync(`/proc/${pid}/fd`).length,
  };
}

function report(before, after) {
  const quarter = Math.max(1, Math.floor(samples.length / 4));
  const early = samples.slice(quarter, 2 * quarter);
  const late = samples.slice(-quarter);
  const most = (list, name) => Math.max(...list.map((sample) => sample[name]));
  const middle = (list, name) =>
    list.map((sample) => sample[name]).sort((a, b) => a - b)[list.length >> 1];
  const twice = [...effects].filter(([, count]) => count > 1);
  const growth = middle(late, "mib") / middle(early, "mib") - 1;
  const result = {
    seconds: SECONDS,
    connections: CONNECTIONS,
    requests: Object.values(answers).reduce((sum, count) => sum + count, 0),
    answers,
    operations: effects.size,
    twice: twice.length,
    memoryMiB: {
      before: Math.round(before.mib),
      early: Math.round(middle(early, "mib")),
      late: Math.round(middle(late, "mib")),
      most: Math.round(most(samples, "mib")),
    },
    handles: {
      before: before.handles,
      early: most(early, "handles"),
      late: most(late, "handles"),
      after: after.handles,
    },
  };
  console.log(JSON.stringify(result, null, 2));
  const wrong = [
    twice.length > 0 && `${twice.length} operations had two effects: ${twice.slice(0, 5)}`,
    // A run of seconds shows what is left behind, not what grows slowly.
    SECONDS >= 120 && growth > GROWTH_MAX && `memory grew by ${Math.round(growth * 100)} %`,
    after.handles > before.handles + HANDLES_LEFT_MAX &&
      `${after.handles} handles are open, ${before.handles} were`,
    !answers["201"] && "nothing was answered",
  ].filter(Boolean);
  for (const line of wrong) console.error(`wrong: ${line}`);
  process.exitCode = wrong.length === 0 ? 0 : 1;
}
