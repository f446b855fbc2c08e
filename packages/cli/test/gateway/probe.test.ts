// Probes (GW-4): the upstream is asked what became of an operation that nobody knows of, and what it says
// settles it.

import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterEach, expect, test } from "vitest";
import { cleanUp, folder, gate, gateway, upstream } from "../processes.ts";

afterEach(cleanUp);

interface Asked {
  url: string | undefined;
  authorization: string | undefined;
}

/** A service whose first POST breaks off, with or without its effect. */
async function lossy(answer: (key: string, effects: string[]) => [status: number, body: string]) {
  const effects: string[] = [];
  const asked: Asked[] = [];
  let posts = 0;
  const reached = gate();
  const behind = await upstream((request, response) => {
    const { method, url, headers } = request;
    if (method === "GET") {
      asked.push({ url, authorization: headers.authorization });
      const key = new URL(url!, "http://a").searchParams.get("key") ?? "";
      const [status, body] = answer(key, effects);
      return void response.writeHead(status, { "content-type": "text/x" }).end(body);
    }
    request.resume().on("end", () => {
      posts++;
      reached.open();
      if (posts === 1 && headers["x-lost"] === "before") return void response.socket?.destroy();
      if (headers["x-lost"] !== "hang") effects.push(String(headers["idempotency-key"]));
      if (posts === 1) return void (headers["x-lost"] !== "hang" && response.socket?.destroy());
      response.writeHead(201).end(`charge ${effects.length}`);
    });
  });
  return { ...behind, effects, asked, reached };
}

async function config(upstreamUrl: string, ...probe: string[]): Promise<string> {
  const path = join(await folder(), "semel.yaml");
  const lines = [
    `upstream: ${upstreamUrl}`,
    "routes:",
    "  - path: /accounts/:id/payments",
    "    onCrash: probe",
    "    lease: 2s",
    "    upstreamTimeout: 1s",
    "    probe:",
    "      get: '/lookup?key={key}&account={path.id}&q={query.q}'",
    "      headers: { Authorization: '{header.authorization}' }",
    ...probe.map((line) => `      ${line}`),
  ];
  await writeFile(path, lines.join("\n"));
  return path;
}

async function post(url: string, lost: string, key = '"k&1"') {
  const response = await fetch(`${url}/accounts/7/payments?q=a%26b`, {
    method: "POST",
    headers: { "idempotency-key": key, authorization: "Bearer a", "x-lost": lost },
    body: "pay",
  });
  const text = await response.text();
  const code = text.startsWith("{") ? (JSON.parse(text) as { code?: string }).code : undefined;
  const state = response.headers.get("idempotency-status");
  return { status: response.status, text, code, state, type: response.headers.get("content-type") };
}

/** Asks until the lease has lapsed. */
async function settled(url: string, lost: string, key?: string) {
  let answer = await post(url, lost, key);
  while (answer.code === "operation-in-progress") {
    await new Promise((resolve) => setTimeout(resolve, 50));
    answer = await post(url, lost, key);
  }
  return answer;
}

test("applied: callers get what the service says, and nothing runs a second time", async () => {
  const behind = await lossy((key, effects) => [effects.includes(`"${key}"`) ? 200 : 404, "yes"]);
  const { url } = await gateway(behind.url, "--config", await config(behind.url, "status: 201"));
  const broken = await post(url, "after");
  expect(broken).toMatchObject({ status: 502, code: "outcome-unknown", state: "unknown" });
  expect(JSON.parse(broken.text)).toMatchObject({ retry: "same-key" });
  expect(await settled(url, "after")).toMatchObject({ status: 201, text: "yes", type: "text/x" });
  expect(await post(url, "after")).toMatchObject({ status: 201, text: "yes", state: "replayed" });
  expect(behind.effects).toHaveLength(1);
  expect(behind.asked).toEqual([
    { url: "/lookup?key=k%261&account=7&q=a%26b", authorization: "Bearer a" },
  ]);
});

test("a service may have kept the key as it came, however the request that asks spells it", async () => {
  const spelt = [
    ['"k1"', '"k1"'],
    ["k1", '"k1"'],
    ['"k1"', "k1"],
    ['"k1";v=1', '"k1";v=1'],
  ] as const;
  await Promise.all(
    spelt.map(async ([first, again]) => {
      const behind = await lossy((key, effects) => [effects.includes(key) ? 200 : 404, "yes"]);
      const { url } = await gateway(behind.url, "--config", await config(behind.url));
      await post(url, "after", first);
      const answer = await settled(url, "after", again);
      expect(answer, `${first} ${again}`).toMatchObject({ status: 200, text: "yes" });
      expect(behind.effects).toEqual([first]);
    }),
  );
});

test("it is not run again while one of the key's spellings tells nothing", async () => {
  const behind = await lossy((key) => [key.startsWith('"') ? 500 : 404, "?"]);
  const { url } = await gateway(behind.url, "--config", await config(behind.url));
  await post(url, "after");
  expect(await settled(url, "after")).toMatchObject({ status: 409, code: "outcome-unknown" });
  expect(behind.effects).toHaveLength(1);
  expect(behind.asked.map(({ url }) => url?.split("&")[0])).toEqual([
    "/lookup?key=k%261",
    "/lookup?key=%22k%261%22",
  ]);
});

test("not applied: it runs, now", async () => {
  const behind = await lossy(() => [404, "no"]);
  const { url } = await gateway(behind.url, "--config", await config(behind.url));
  expect(await post(url, "before")).toMatchObject({ code: "outcome-unknown" });
  expect(await settled(url, "before")).toMatchObject({ status: 201, text: "charge 1" });
  expect(behind.effects).toHaveLength(1);
});

test("a list is searched: what is found is the answer, nothing runs it, and no JSON holds it", async () => {
  const cases = [
    ['{"data":[{"id":1}]}', { status: 200, text: '{"id":1}' }],
    ['{"data":[]}', { status: 201, text: "charge 1" }],
    ["<html>", { status: 409, code: "outcome-unknown" }],
  ] as const;
  await Promise.all(
    cases.map(async ([found, expected]) => {
      const behind = await lossy(() => [200, found]);
      const path = await config(behind.url, "find: /data/0");
      const { url } = await gateway(behind.url, "--config", path);
      await post(url, "before");
      expect(await settled(url, "before"), found).toMatchObject(expected);
    }),
  );
});

test("an answer of another status tells nothing: it is held, and asked no more", async () => {
  await Promise.all(
    [500, 202, 302].map(async (status) => {
      const behind = await lossy(() => [status, "?"]);
      const { url } = await gateway(behind.url, "--config", await config(behind.url));
      await post(url, "after");
      for (const answer of [await settled(url, "after"), await post(url, "after")]) {
        expect(answer, String(status)).toMatchObject({ status: 409, code: "outcome-unknown" });
      }
      // Once for each way to spell the key.
      expect([behind.asked.length, behind.effects.length]).toEqual([2, 1]);
    }),
  );
});

test("what was under way when a gateway was killed, the next one asks about", async () => {
  const behind = await lossy(() => [200, "it was charged"]);
  const store = `sqlite:${join(await folder(), "semel.db")}`;
  const flags = ["--config", await config(behind.url), "--store", store];
  const [one, other] = await Promise.all([
    gateway(behind.url, ...flags),
    gateway(behind.url, ...flags),
  ]);
  const lost = post(one.url, "hang").catch(() => "no answer");
  await behind.reached.opened;
  expect(await one.end("SIGKILL")).toBe("SIGKILL");
  expect(await lost).toBe("no answer");
  expect(await settled(other.url, "hang")).toMatchObject({ status: 200, text: "it was charged" });
  expect(behind.asked).toHaveLength(1);
});
