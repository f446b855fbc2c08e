// Two gateways on one server (GW-1): duplicates that reach both are one request upstream, and what one
// of them left behind when it was killed, the other one knows not to repeat.

import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { cleanUp, gate, gateway, semel, upstream } from "../processes.ts";
import { mysqlDatabase, postgresDatabase, redisPrefix, type Undo } from "../stores/fixtures.ts";

afterEach(cleanUp);

async function post(url: string, key: string) {
  const response = await fetch(url, {
    method: "POST",
    headers: { "idempotency-key": key, authorization: "x" },
    body: "pay",
  });
  const text = await response.text();
  const code = text.startsWith("{") ? (JSON.parse(text) as { code?: string }).code : undefined;
  const replayed = response.headers.get("idempotent-replayed") === "true";
  return { status: response.status, text, code, replayed };
}

const STORES = [
  ["Postgres", await postgresDatabase()],
  ["MySQL", await mysqlDatabase()],
  ["Redis", await redisPrefix()],
] as const;

for (const [name, found] of STORES) {
  const reason = "reason" in found ? ` (skipped: ${found.reason})` : "";
  describe.skipIf(reason !== "")(`two gateways on ${name}${reason}`, () => {
    const { flags, close } = found as { flags: string[]; close: Undo };
    afterAll(close);
    beforeAll(async () => {
      expect(await semel("migrate", ...flags)).toMatchObject({ code: 0 });
    });

    test("forty duplicates across both are one request upstream, and one answer", async () => {
      let effects = 0;
      const behind = await upstream((request, response) => {
        request.resume().on("end", () => {
          effects++;
          response.writeHead(201, { location: `/charges/${effects}` }).end(`charge ${effects}`);
        });
      });
      const both = await Promise.all([
        gateway(behind.url, "--wait", "20s", ...flags),
        gateway(behind.url, "--wait", "20s", ...flags),
      ]);
      const answers = await Promise.all(
        Array.from({ length: 40 }, (_, at) => post(both[at % 2]!.url, "storm")),
      );
      expect(effects).toBe(1);
      expect(new Set(answers.map(({ status, text }) => `${status} ${text}`))).toEqual(
        new Set(["201 charge 1"]),
      );
      expect(answers.filter(({ replayed }) => !replayed)).toHaveLength(1);
      for (const one of both) expect(await one.end("SIGTERM")).toBe(0);
    });

    test("one is killed in mid-exchange: the other one answers that nobody knows (SM-4)", async () => {
      const reached = gate();
      let effects = 0;
      const behind = await upstream((request) => {
        effects++;
        request.resume().on("end", () => reached.open());
      });
      const [first, second] = await Promise.all([
        gateway(behind.url, "--lease", "2s", ...flags),
        gateway(behind.url, "--lease", "2s", ...flags),
      ]);
      const lost = post(first.url, "killed").catch(() => "no answer");
      await reached.opened;
      expect(await post(second.url, "killed")).toMatchObject({ code: "operation-in-progress" });
      expect(await first.end("SIGKILL")).toBe("SIGKILL");
      expect(await lost).toBe("no answer");
      let answer = await post(second.url, "killed");
      while (answer.code === "operation-in-progress") {
        await new Promise((resolve) => setTimeout(resolve, 50));
        answer = await post(second.url, "killed");
      }
      expect(answer).toMatchObject({ status: 409, code: "outcome-unknown" });
      expect(effects).toBe(1);

      const held = await semel("records", "list", "--state", "held", "--json", ...flags);
      const { scope } = JSON.parse(held.stdout) as { scope: string };
      const verdict = ["--applied", "--status", "201", "--body", "it was charged"];
      const name = ["killed", "--scope", scope, ...verdict, ...flags];
      expect(await semel("records", "resolve", ...name)).toMatchObject({ code: 0 });
      expect(await post(second.url, "killed")).toMatchObject({
        ...{ status: 201, text: "it was charged", replayed: true },
      });
      expect(effects).toBe(1);
    });
  });
}
