// The example does what it says: its three curl lines, and the lost answer.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { afterEach, expect, test } from "vitest";
import { cleanUp, folder, later, upstream } from "./processes.ts";

afterEach(cleanUp);

const START = fileURLToPath(new URL("../../../examples/payments/start.mjs", import.meta.url));

async function start(listen: string) {
  const child = spawn(process.execPath, [START], {
    env: { ...process.env, SEMEL_LISTEN: listen, SEMEL_FOLDER: await folder() },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const exited = once(child, "close");
  later(async () => {
    child.kill("SIGTERM");
    const killing = setTimeout(() => child.kill("SIGKILL"), 20_000);
    await exited;
    clearTimeout(killing);
  });
  let text = "";
  let changed = () => {};
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding("utf8").on("data", (chunk: string) => {
      text += chunk;
      changed();
    });
  }
  const printed = (wanted: string) =>
    new Promise<string>((resolve) => {
      changed = () => text.includes(wanted) && resolve(text);
      changed();
    });
  return { child, exited, printed, text: () => text };
}

/** Does what a printed `curl -i` line would do, where there may be no curl. */
async function curl(line: string): Promise<{ status: number; head: string; body: string }> {
  const url = /^curl -i (\S+)/.exec(line)![1]!;
  const headers = [...line.matchAll(/ -H '([^:']+): ([^']*)'/g)].map(
    ([, name, value]): [string, string] => [name!, value!],
  );
  const body = / -d '([^']*)'$/.exec(line)![1]!;
  const response = await fetch(url, { method: "POST", headers, body });
  const head = [...response.headers].map((field) => field.join(": ")).join("\n");
  return { status: response.status, head, body: await response.text() };
}

interface Answer {
  status: number;
  replayed: string | null;
  body: { id?: number; code?: string; charges?: unknown[] };
}

async function pay(url: string, key: string, amount: unknown): Promise<Answer> {
  const response = await fetch(url, {
    method: "POST",
    headers: {
      authorization: "Bearer demo",
      "idempotency-key": key,
      "content-type": "application/json",
    },
    body: JSON.stringify({ amount, currency: "EUR" }),
  });
  const replayed = response.headers.get("idempotent-replayed");
  return { status: response.status, replayed, body: (await response.json()) as Answer["body"] };
}

test("the printed curl lines charge, replay and refuse; a lost answer is never charged twice", async () => {
  const { child, exited, printed } = await start("127.0.0.1:0");
  const text = await printed("Ctrl-C ends it.");
  const lines = [...text.matchAll(/^ {3}(curl -i .*)$/gm)].map((match) => match[1]!);
  expect(lines).toHaveLength(3);
  const first = await curl(lines[0]!);
  expect(first).toMatchObject({ status: 201, head: expect.stringContaining("executed") });
  expect(JSON.parse(first.body)).toEqual({ id: 1, amount: 1200, currency: "EUR" });
  const again = await curl(lines[1]!);
  expect(again).toMatchObject({ status: 201, body: first.body });
  expect(again.head).toContain("idempotent-replayed: true");
  const other = await curl(lines[2]!);
  expect(other).toMatchObject({ status: 422, body: expect.stringContaining("key-reused") });

  const url = /curl (http\S+\/payments)$/m.exec(text)![1]!;
  const charges = async () => {
    const { charges } = (await (await fetch(url)).json()) as { charges: unknown[] };
    return charges.length;
  };
  expect(await charges()).toBe(1);
  expect(await pay(url, "wrong", -1)).toMatchObject({ status: 400 });
  expect(await pay(url, "two", 1)).toMatchObject({ status: 201, body: { id: 2 } });
  expect(await pay(url, "three", 1)).toMatchObject({ status: 201, body: { id: 3 } });
  const lost = { body: { code: "outcome-unknown" } };
  expect(await pay(url, "four", 1)).toMatchObject({ status: 502, ...lost });
  expect(await pay(url, "four", 1)).toMatchObject({ status: 409, ...lost });
  expect(await charges()).toBe(4);
  await printed("lost the answer to charge 4");

  child.kill("SIGINT");
  expect(await exited).toEqual([0, null]);
  await expect(fetch(url), "nothing stays behind").rejects.toThrow();
});

test("an address that is in use is told with the way to another one", async () => {
  const taken = await upstream((_request, response) => response.end());
  const { exited, text } = await start(`127.0.0.1:${taken.port}`);
  expect(await exited).toEqual([1, null]);
  expect(text()).toContain("the address is in use");
  expect(text()).toContain("SEMEL_LISTEN=127.0.0.1:8081 npm start");
});
