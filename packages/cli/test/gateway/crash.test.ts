// A gateway that is killed while the upstream is at work (SM-4): the next one on the same file knows
// that nobody knows, and acts by the operator's policy.

import { join } from "node:path";
import { afterEach, expect, test } from "vitest";
import { cleanUp, folder, gate, gateway, upstream } from "../processes.ts";

afterEach(cleanUp);

async function post(url: string): Promise<{ status: number; code: string; text: string }> {
  const response = await fetch(url, {
    method: "POST",
    headers: { "idempotency-key": "k", authorization: "x" },
    body: "pay",
  });
  const text = await response.text();
  const { code } = text.startsWith("{") ? JSON.parse(text) : { code: "" };
  return { status: response.status, code, text };
}

/** Kills a gateway in the middle of a call, while another one is on its file. */
async function killedAndReplaced(policy: "hold" | "rerun") {
  const reached = gate();
  const attempts: unknown[] = [];
  const behind = await upstream((request, response) => {
    attempts.push(request.headers["idempotency-attempt"]);
    if (attempts.length > 1) return void response.end("second");
    request.resume().on("end", () => reached.open());
  });
  const store = `sqlite:${join(await folder(), "semel.db")}`;
  const flags = ["--store", store, "--lease", "2s", "--on-crash", policy];
  const [first, second] = await Promise.all([
    gateway(behind.url, ...flags),
    gateway(behind.url, ...flags),
  ]);
  const lost = post(first.url).catch(() => "no answer");
  await reached.opened;
  expect(await first.end("SIGKILL")).toBe("SIGKILL");
  expect(await lost).toBe("no answer");
  return { second, attempts };
}

/** Asks until the lease has lapsed. @returns the statuses before, and the answer after */
async function untilLapsed(url: string) {
  const before = new Set<string>();
  for (;;) {
    const answer = await post(url);
    if (answer.code !== "operation-in-progress") return { before: [...before], answer };
    before.add(`${answer.status} ${answer.code}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

test("by default the operation is held: in progress until the lease lapses, then unknown", async () => {
  const { second, attempts } = await killedAndReplaced("hold");
  const { before, answer } = await untilLapsed(second.url);
  expect(before).toEqual(["409 operation-in-progress"]);
  expect(answer).toMatchObject({ status: 409, code: "outcome-unknown" });
  expect(await post(second.url)).toMatchObject({ status: 409, code: "outcome-unknown" });
  expect(attempts).toEqual(["1"]);
});

test("with --on-crash rerun it runs again when the lease has lapsed, and says so upstream", async () => {
  const { second, attempts } = await killedAndReplaced("rerun");
  const { before, answer } = await untilLapsed(second.url);
  expect(before).toEqual(["409 operation-in-progress"]);
  expect(answer).toMatchObject({ status: 200, text: "second" });
  expect(attempts).toEqual(["1", "2"]);
});
