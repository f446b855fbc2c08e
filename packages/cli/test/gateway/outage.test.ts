// A store that goes away at every moment of a request, and comes back: nothing runs twice, every caller
// has an answer that says what to do, and nothing has to be started anew.

import { once } from "node:events";
import { connect, createServer, type Socket } from "node:net";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { cleanUp, gate, gateway, later, semel, upstream } from "../processes.ts";
import { mysqlDatabase, postgresDatabase, redisPrefix, type Undo } from "../stores/fixtures.ts";

afterEach(cleanUp);

/**
 * How the way to the store is broken: `refused` cuts every connection, `silent` passes nothing on, and
 * `deaf` passes on what the gateway says, but no answer.
 */
type Outage = "refused" | "silent" | "deaf";

/** A way to a server that can be broken, and mended. */
async function wayTo(target: URL) {
  const port = Number(
    target.port || { "postgres:": 5432, "mysql:": 3306 }[target.protocol] || 6379,
  );
  let outage: Outage | undefined;
  const sockets = new Set<Socket>();
  const server = createServer((client) => {
    if (outage === "refused") return client.destroy();
    const behind = connect(port, target.hostname);
    const pass = (from: Socket, to: Socket, isStopped: () => boolean) => {
      sockets.add(from);
      from.on("error", () => {});
      from.on("data", (chunk) => isStopped() || to.write(chunk));
      from.on("close", () => {
        sockets.delete(from);
        to.destroy();
      });
    };
    pass(client, behind, () => outage === "silent");
    pass(behind, client, () => outage !== undefined);
    return undefined;
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const cut = () => {
    for (const socket of sockets) socket.destroy();
  };
  later(() => {
    server.close();
    cut();
  });
  const url = new URL(target);
  url.hostname = "127.0.0.1";
  url.port = String((server.address() as { port: number }).port);
  return {
    url: url.href,
    breaks(how: Outage): void {
      outage = how;
      if (how === "refused") cut();
    },
    /** What was lost meanwhile is lost: its connections do not go on as if nothing had happened. */
    mends(): void {
      outage = undefined;
      cut();
    },
  };
}

async function post(url: string, key?: string) {
  const response = await fetch(url, {
    method: "POST",
    headers: { authorization: "x", ...(key !== undefined && { "idempotency-key": key }) },
    body: "pay",
  });
  const text = await response.text();
  const isProblem = response.headers.get("content-type") === "application/problem+json";
  const status = response.status;
  const state = response.headers.get("idempotency-status");
  return { status, state, text, ...(isProblem && (JSON.parse(text) as { code: string })) };
}

/** Asks until it is known what became of it. */
async function settled(url: string, key: string) {
  for (;;) {
    const answer = await post(url, key);
    if (answer.status !== 503 && answer.state !== "in-progress") return answer;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

const STORES = [
  ["Postgres", await postgresDatabase()],
  ["MySQL", await mysqlDatabase()],
  ["Redis", await redisPrefix()],
] as const;
const UNAVAILABLE = { status: 503, code: "store-unavailable", retry: "same-key" };

for (const [name, found] of STORES) {
  const reason = "reason" in found ? ` (skipped: ${found.reason})` : "";
  describe.skipIf(reason !== "")(`the gateway while ${name} is away${reason}`, () => {
    const { flags, close } = found as { flags: string[]; close: Undo };
    afterAll(close);
    beforeAll(async () => {
      expect(await semel("migrate", ...flags)).toMatchObject({ code: 0 });
    });

    /** A gateway whose store can go away, in front of a service whose every call is a charge. */
    async function scene() {
      const way = await wayTo(new URL(flags[1]!));
      const service = { charges: 0, reached: gate(), answers: gate() };
      service.answers.open();
      const behind = await upstream((request, response) => {
        request.resume().on("end", async () => {
          service.charges++;
          service.reached.open();
          await service.answers.opened;
          response.writeHead(201).end(`charge ${service.charges}`);
        });
      });
      const start = () =>
        gateway(behind.url, "--lease", "2s", ...flags.with(1, way.url), "--wait", "0");
      return { way, service, start, ...(await start()) };
    }

    for (const outage of ["refused", "silent", "deaf"] as const) {
      test(`${outage} before the claim: nothing runs, and the same key runs afterwards`, async () => {
        const { url, way, service, end } = await scene();
        way.breaks(outage);
        expect(await post(url, `claim-${outage}`)).toMatchObject(UNAVAILABLE);
        expect(service.charges).toBe(0);
        expect(await fetch(`${url}/-/readyz`)).toMatchObject({ status: 503 });
        expect(await fetch(`${url}/-/healthz`)).toMatchObject({ status: 200 });
        // Whoever has no key needs no store.
        expect(await post(url)).toMatchObject({ status: 201, text: "charge 1" });
        way.mends();
        const answer = await settled(url, `claim-${outage}`);
        // A claim that arrived, and could not be given back, nobody can tell from one that crashed.
        const isKnown = answer.code !== "outcome-unknown";
        if (outage === "deaf" && !isKnown) expect(service.charges).toBe(1);
        else expect(answer).toMatchObject({ status: 201, text: "charge 2", state: "executed" });
        expect(await post(url, `other-${outage}`)).toMatchObject({ status: 201 });
        expect(await end("SIGTERM")).toBe(0);
      });

      test(`${outage} while the service is at work, and back in time: recorded`, async () => {
        const { url, way, service, end } = await scene();
        service.answers = gate();
        const answered = post(url, `back-${outage}`);
        await service.reached.opened;
        way.breaks(outage);
        service.answers.open();
        await new Promise((resolve) => setTimeout(resolve, 300));
        way.mends();
        expect(await answered).toMatchObject({ status: 201, text: "charge 1" });
        const again = await settled(url, `back-${outage}`);
        expect(again).toMatchObject({ status: 201, text: "charge 1", state: "replayed" });
        expect(service.charges).toBe(1);
        expect(await end("SIGTERM")).toBe(0);
      });

      test(`${outage} until too late: the caller has the answer, and nothing runs again`, async () => {
        const { url, way, service, end } = await scene();
        service.answers = gate();
        const answered = post(url, `late-${outage}`);
        await service.reached.opened;
        way.breaks(outage);
        service.answers.open();
        expect(await answered).toMatchObject({ status: 201, text: "charge 1" });
        expect(await post(url, `late-${outage}`)).toMatchObject({ status: expect.any(Number) });
        expect(service.charges).toBe(1);
        way.mends();
        const again = await settled(url, `late-${outage}`);
        // Its end may have arrived, and only the answer have been lost.
        if (again.status !== 201) expect(again).toMatchObject({ code: "outcome-unknown" });
        else expect(again).toMatchObject({ text: "charge 1", state: "replayed" });
        expect(service.charges).toBe(1);
        expect(await end("SIGTERM")).toBe(0);
      });

      test(`${outage} at a replay: refused, or answered from memory, and never run`, async () => {
        const { url, way, service, end, start } = await scene();
        const key = `replay-${outage}`;
        expect(await post(url, key)).toMatchObject({ status: 201, text: "charge 1" });
        const other = await start();
        way.breaks(outage);
        expect(await post(url, key)).toMatchObject({ status: 201, state: "replayed" });
        expect(await post(other.url, key)).toMatchObject(UNAVAILABLE);
        way.mends();
        expect(await settled(other.url, key)).toMatchObject({
          text: "charge 1",
          state: "replayed",
        });
        expect(service.charges).toBe(1);
        for (const one of [end, other.end]) expect(await one("SIGTERM")).toBe(0);
      });
    }

    test("in audit mode everything passes as it would without the gateway", async () => {
      const { way, service } = await scene();
      const behind = await upstream((request, response) => {
        request
          .resume()
          .on("end", () => response.writeHead(201).end(`charge ${++service.charges}`));
      });
      const audit = ["--mode", "audit", ...flags.with(1, way.url)];
      const { url, end } = await gateway(behind.url, ...audit);
      for (const outage of ["refused", "silent", "deaf"] as const) {
        way.breaks(outage);
        const before = service.charges;
        for (let n = 1; n <= 2; n++) {
          const answer = await post(url, `audit-${outage}`);
          expect(answer).toMatchObject({ status: 201, text: `charge ${before + n}` });
        }
        way.mends();
      }
      expect(await end("SIGTERM")).toBe(0);
    });
  });
}
