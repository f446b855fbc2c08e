// A gateway is started anew without a request that is refused or lost: by handing its sockets on to a
// successor, or by a service manager that keeps them meanwhile.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { writeFile } from "node:fs/promises";
import { Agent, request as httpRequest } from "node:http";
import { connect, createServer } from "node:net";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterEach, expect, test } from "vitest";
import { inheritedSockets } from "../../src/gateway/listen.ts";
import { cleanUp, folder, gateway, later, upstream } from "../processes.ts";

afterEach(cleanUp);

async function charging() {
  const effects = new Map<string, number>();
  const behind = await upstream((request, response) => {
    request.resume().on("end", () => {
      const key = String(request.headers["idempotency-key"]);
      effects.set(key, (effects.get(key) ?? 0) + 1);
      response.writeHead(201).end("charged");
    });
  });
  return { ...behind, effects };
}

/** Posts over connections that are kept, as services do. */
function poster(url: string) {
  const agent = new Agent({ keepAlive: true });
  later(() => agent.destroy());
  return (key: string) =>
    new Promise<string>((resolve) => {
      const headers = { "idempotency-key": key, authorization: "x" };
      const request = httpRequest(url, { method: "POST", agent, headers }, (response) => {
        response.resume().on("end", () => resolve(String(response.statusCode)));
      });
      request.on("error", (error) => resolve(error.message)).end("pay");
    });
}

/** Keeps callers busy until told to stop. @returns how all of them were answered */
function underLoad(url: string) {
  const post = poster(url);
  const answers = new Map<string, number>();
  let isOver = false;
  let sent = 0;
  const callers = Array.from({ length: 8 }, async () => {
    while (!isOver) {
      const answer = await post(`k${sent++}`);
      answers.set(answer, (answers.get(answer) ?? 0) + 1);
    }
  });
  return {
    sent: () => sent,
    async end() {
      isOver = true;
      await Promise.all(callers);
      return Object.fromEntries(answers);
    },
  };
}

test("SIGUSR2 hands over to a successor: under load no request fails, and each has one effect", async () => {
  const behind = await charging();
  const store = `sqlite:${join(await folder(), "semel.db")}`;
  const front = await gateway(behind.url, "--store", store);
  const load = underLoad(front.url);
  while (load.sent() < 50) await new Promise((resolve) => setTimeout(resolve, 10));
  front.child.kill("SIGUSR2");
  const { pid } = (await front.logged(({ event }) => event === "handed-over")) as unknown as {
    pid: number;
  };
  later(() => {
    try {
      process.kill(pid, "SIGKILL");
    } catch {
      // It has ended already.
    }
  });
  await front.logged(({ event }) => event === "stopped");
  const before = load.sent();
  while (load.sent() < before + 50) await new Promise((resolve) => setTimeout(resolve, 10));
  const answers = await load.end();
  expect(answers).toEqual({ 201: load.sent() });
  expect([...behind.effects.values()].every((count) => count === 1)).toBe(true);
  expect(behind.effects.size).toBe(load.sent());
});

test("a successor that cannot start leaves everything as it is", async () => {
  const behind = await charging();
  const path = await folder();
  const config = join(path, "semel.yaml");
  await writeFile(config, `upstream: ${behind.url}`);
  const store = `sqlite:${join(path, "semel.db")}`;
  const front = await gateway(behind.url, "--store", store, "--config", config);
  await writeFile(config, "retension: 1h");
  front.child.kill("SIGUSR2");
  const { reason } = await front.logged(({ event }) => event === "handover-failed");
  expect(reason).toBe("the new process ended with 2");
  expect(await poster(front.url)("k")).toBe("201");

  const inMemory = await gateway(behind.url);
  inMemory.child.kill("SIGUSR2");
  const refused = await inMemory.logged(({ event }) => event === "handover-failed");
  expect(refused["reason"]).toContain("memory:");
  expect(await poster(inMemory.url)("k2")).toBe("201");
});

test("a stop while a successor starts is the successor's, too", async () => {
  const behind = await charging();
  const store = `sqlite:${join(await folder(), "semel.db")}`;
  const front = await gateway(behind.url, "--store", store);
  // Its standard streams are the successor's as well, and end with it.
  const closed = once(front.child, "close");
  front.child.kill("SIGUSR2");
  expect(await front.end("SIGTERM")).toBe(0);
  await closed;
  expect(front.stderr()).toBe("");
  await expect(fetch(front.url)).rejects.toThrow();
});

const MAIN = fileURLToPath(new URL("../../dist/main.js", import.meta.url));

test("a socket that a service manager keeps is taken over, and refuses nobody meanwhile", async () => {
  const behind = await charging();
  const store = `sqlite:${join(await folder(), "semel.db")}`;
  // What a service manager does: it listens, and starts the gateway with the socket as descriptor 3.
  const manager = createServer({ pauseOnConnect: true });
  await new Promise<void>((resolve) => manager.listen(0, "127.0.0.1", resolve));
  const { port } = manager.address() as { port: number };
  const { fd } = (manager as unknown as { _handle: { fd: number } })._handle;
  const start = () => {
    const args = ["gateway", "--upstream", behind.url, "--store", store, "--json"];
    const script = `LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" "$@"`;
    const child = spawn("sh", ["-c", script, process.execPath, MAIN, ...args], {
      stdio: ["ignore", "pipe", "inherit", fd],
    });
    later(() => child.kill("SIGKILL"));
    const exited = new Promise((resolve) => child.once("exit", resolve));
    const listening = new Promise<void>((resolve) => {
      child.stdout!.on("data", (chunk) => {
        if (String(chunk).includes('"listening"')) resolve();
      });
    });
    return { child, exited, listening };
  };
  const first = start();
  await first.listening;
  // From here on only gateways accept; the socket stays open in their descriptors and in a dormant copy.
  const kept = spawn("sleep", ["60"], { stdio: ["ignore", "ignore", "ignore", fd] });
  later(() => kept.kill("SIGKILL"));
  const second = start();
  manager.close();
  await second.listening;
  const url = `http://127.0.0.1:${port}/`;
  expect(await poster(url)("one")).toBe("201");
  for (const { child, exited } of [first, second]) {
    child.kill("SIGTERM");
    await exited;
  }
  // Nobody accepts now, and nobody is refused.
  const waiting = connect(port, "127.0.0.1");
  later(() => waiting.destroy());
  await new Promise((resolve, reject) => waiting.once("connect", resolve).once("error", reject));
});

test("which descriptor is whose is said by a predecessor, or by a service manager to this process alone", () => {
  expect([...inheritedSockets({ SEMEL_LISTEN_FDS: "--listen=4,--admin=5" }, 7)]).toEqual([
    ["--listen", 4],
    ["--admin", 5],
  ]);
  const managed = { LISTEN_PID: "7", LISTEN_FDS: "2", LISTEN_FDNAMES: "admin:web" };
  expect([...inheritedSockets(managed, 7)]).toEqual([
    ["--admin", 3],
    ["--listen", 4],
  ]);
  expect([...inheritedSockets(managed, 8)]).toEqual([]);
});
