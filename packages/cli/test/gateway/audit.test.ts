// `--mode audit` (GW-6): nothing is stopped, delayed or changed, and what would have been is told.

import { afterEach, expect, test } from "vitest";
import { cleanUp, gate, gateway, upstream } from "../processes.ts";

afterEach(cleanUp);

async function post(url: string, key: string, body = "pay", headers: Record<string, string> = {}) {
  const response = await fetch(url, {
    method: "POST",
    headers: { ...(key && { "idempotency-key": key }), authorization: "x", ...headers },
    body,
  });
  return { status: response.status, text: await response.text(), headers: response.headers };
}

test("everything runs, and what would have been stopped is told and counted", async () => {
  let runs = 0;
  const mayAnswer = gate();
  const isSlow = gate();
  const behind = await upstream((request, response) => {
    request.resume().on("end", async () => {
      const run = ++runs;
      if (request.url === "/slow" && run < 100) {
        isSlow.open();
        await mayAnswer.opened;
      }
      if (request.url === "/fails") return void response.writeHead(500).end("failed");
      response.writeHead(201).end(request.url === "/same" ? "same" : `run ${run}`);
    });
  });
  const front = await gateway(behind.url, "--mode", "audit", "--max-body", "10");
  const { url, log, logged } = front;
  expect((await post(`${url}/same`, "a")).text).toBe("same");
  const again = await post(`${url}/same`, "a");
  expect([again.text, again.headers.get("idempotent-replayed")]).toEqual(["same", null]);
  expect((await post(`${url}/other`, "b")).text).toBe("run 3");
  expect((await post(`${url}/other`, "b")).text).toBe("run 4");
  expect((await post(`${url}/other`, "b", "else")).text).toBe("run 5");
  expect((await post(`${url}/other`, "b c")).status).toBe(201);
  expect((await post(`${url}/other`, "long", "0123456789ab")).status).toBe(201);
  expect((await post(`${url}/fails`, "f")).status).toBe(500);
  expect((await post(`${url}/fails`, "f")).status).toBe(500);
  const slow = post(`${url}/slow`, "s");
  await isSlow.opened;
  const second = post(`${url}/slow`, "s");
  while (runs < 11) await new Promise((resolve) => setTimeout(resolve, 10));
  mayAnswer.open();
  await Promise.all([slow, second]);
  expect(runs).toBe(11);
  await logged(({ would }) => would === "refuse-in-progress");

  expect(await front.end("SIGTERM")).toBe(0);
  const told = log.filter(({ event }) => event === "audit");
  expect(told.map(({ would, path, code, differs }) => ({ would, path, code, differs }))).toEqual([
    { would: "replay", path: "/same", code: undefined, differs: false },
    { would: "replay", path: "/other", code: undefined, differs: true },
    { would: "refuse-mismatch", path: "/other", code: "key-reused", differs: undefined },
    { would: "refuse-request", path: "/other", code: "key-invalid", differs: undefined },
    { would: "refuse-request", path: "/other", code: "body-too-large", differs: undefined },
    {
      would: "refuse-in-progress",
      path: "/slow",
      code: "operation-in-progress",
      differs: undefined,
    },
  ]);
  const summary = log.find(({ event }) => event === "audit-summary");
  expect(summary).toMatchObject({
    run: 5,
    replay: 2,
    differing: 1,
    "refuse-mismatch": 1,
    "refuse-request": 2,
    "refuse-in-progress": 1,
    "refuse-unrecorded": 0,
  });
  expect(JSON.stringify(log)).not.toMatch(/"(?:a|b c)"|pay\b/);
});

test("streams flow as without it", async () => {
  const first = gate<string>();
  const last = gate();
  const behind = await upstream((request, response) => {
    request.setEncoding("utf8").once("data", first.open);
    response.write("begun");
    void last.opened.then(() => response.end("done"));
  });
  const { url } = await gateway(behind.url, "--mode", "audit");
  const body = new ReadableStream({
    async start(controller) {
      controller.enqueue(new TextEncoder().encode("one"));
      await first.opened;
      controller.enqueue(new TextEncoder().encode("two"));
      controller.close();
    },
  });
  const init = { method: "POST", body, duplex: "half" as const };
  const response = await fetch(url, {
    ...init,
    headers: { "idempotency-key": "k", authorization: "x" },
  });
  const reader = response.body!.getReader();
  expect(new TextDecoder().decode((await reader.read()).value)).toBe("begun");
  last.open();
  let rest = "";
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    rest += new TextDecoder().decode(part.value);
  }
  expect(rest).toBe("done");
});
