// The route modules of the Next.js and SvelteKit recipes, called as those frameworks call them, with real
// `Request` and `Response` objects. The frameworks themselves are not run.

import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type Bank, openBank } from "./bank.ts";
import { answerOf, RECIPES } from "./recipe-process.ts";

interface KitEvent {
  request: Request;
  params: Record<string, string>;
  locals: { account?: string };
}
type NextRoute = (
  request: Request,
  context: { params: Promise<{ invoice: string }> },
) => Promise<Response>;
type KitRoute = (event: KitEvent) => Promise<Response>;
type KitHandle = (input: {
  event: KitEvent;
  resolve(event: KitEvent): Promise<Response>;
}) => Promise<Response>;

let folder: string;
let bank: Bank;
let next: { POST: NextRoute };
let kit: { POST: KitRoute };
let hooks: { handle: KitHandle };

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "semel-routes-"));
  bank = await openBank();
  process.env["BANK_URL"] = bank.url;
  process.env["SEMEL_DATABASE"] = join(folder, "semel.db");
  next = await import(join(RECIPES, "next/route.js"));
  kit = await import(join(RECIPES, "sveltekit/+server.js"));
  hooks = await import(join(RECIPES, "sveltekit/hooks.server.js"));
});

afterAll(async () => {
  await bank.close();
  rmSync(folder, { recursive: true, force: true });
});

function requestOf(key: string, amount: number, host = "shop.example"): Request {
  return new Request(`https://${host}/invoices/7/payments`, {
    method: "POST",
    headers: {
      authorization: "Bearer alice-token",
      "content-type": "application/json",
      "idempotency-key": key,
    },
    body: JSON.stringify({ amount }),
  });
}

/** The request of a route that may be static: Next.js hands over a proxy that watches what is read. */
function watched(request: Request): Request {
  return new Proxy(request, {
    get(target, name) {
      if (name === "clone") return () => watched(target.clone());
      const value = Reflect.get(target, name, target);
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
}

const toNext = (request: Request) =>
  next.POST(request, { params: Promise.resolve({ invoice: "7" }) });
const toKit = (request: Request) =>
  hooks.handle({
    event: { request, params: { invoice: "7" }, locals: {} },
    resolve: async (event) => kit.POST(event),
  });

test.each([
  ["next", "a Next.js route handler", toNext],
  [
    "watched",
    "a Next.js route handler that gets a proxy",
    (request: Request) => toNext(watched(request)),
  ],
  ["kit", "a SvelteKit endpoint", toKit],
])("%s: %s runs once for its key", async (name, _, call) => {
  const before = bank.charges.length;
  const key = `${name}-once`;
  const first = await answerOf(await call(requestOf(key, 100)));
  expect(first).toMatchObject({ status: 201, value: { charge: before + 1, invoice: "7" } });
  const again = await answerOf(await call(requestOf(key, 100, "another.example")));
  expect(again).toEqual({ ...first, replayed: true });
  expect(await answerOf(await call(requestOf(key, 101)))).toMatchObject({
    status: 422,
    code: "key-reused",
  });
  expect(bank.charges).toHaveLength(before + 1);
});

test("50 duplicates at once have one effect and one answer", async () => {
  const before = bank.charges.length;
  const answers = await Promise.all(
    Array.from({ length: 50 }, async () => answerOf(await toNext(requestOf("many", 100)))),
  );
  expect(answers.filter(({ status }) => status === 201)).toHaveLength(1);
  expect(answers.filter(({ code }) => code === "operation-in-progress")).toHaveLength(49);
  expect(bank.charges).toHaveLength(before + 1);
});

test("HTTP-4: a SvelteKit event whose `locals` name nobody gets 401", async () => {
  const before = bank.charges.length;
  const event = { request: requestOf("nobody", 100), params: { invoice: "7" }, locals: {} };
  expect(await answerOf(await kit.POST(event))).toMatchObject({
    status: 401,
    code: "scope-missing",
  });
  expect(bank.charges).toHaveLength(before);
});

test("route modules export only what their frameworks allow", () => {
  expect(Object.keys(next)).toEqual(["POST"]);
  expect(Object.keys(kit)).toEqual(["POST"]);
  expect(Object.keys(hooks)).toEqual(["handle"]);
});

test("the code on the recipes page is the code of the recipes", () => {
  const page = readFileSync(join(RECIPES, "../../docs/recipes.md"), "utf8");
  const blocks = [...page.matchAll(/^```js\n\/\/ (\S+)\n(.*?)^```/gms)];
  expect(blocks.length).toBeGreaterThanOrEqual(6);
  expect(blocks).toHaveLength([...page.matchAll(/^```js$/gm)].length);
  for (const [, file, code] of blocks) {
    expect(readFileSync(join(RECIPES, file!), "utf8"), file).toContain(code!);
  }
});
