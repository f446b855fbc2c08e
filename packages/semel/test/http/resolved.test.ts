// Operations that somebody resolved by hand: each takes a result of its own kind, and one that has
// another all the same is never answered as if it had to be done again under a new key.

import { describe, expect, test } from "vitest";
import { jsonCodec } from "../../src/codec.ts";
import { type StoredResult, seal } from "../../src/engine/envelope.ts";
import type { Idempotency } from "../../src/engine/idempotency.ts";
import { type HttpOptions, httpResult, idempotent } from "../../src/frameworks/fetch.ts";
import { recordId } from "../../src/key.ts";
import type { Store } from "../../src/store.ts";
import { type Fixture, failure, fixture } from "../engine/fixture.ts";

const NAME = { key: "k" };
const VALUE = { outcome: "applied", value: { paid: true } } as const;
const RESPONSE = { outcome: "applied", result: httpResult({ status: 201 }) } as const;

const fail = () => Promise.reject(new Error("the connection broke"));
const again = () => expect.unreachable("it ran again");

/** A route that answers `NAME`. */
function route(from: Idempotency, options: Partial<HttpOptions<Request>> = {}, handler = again) {
  const handle = idempotent(from, { scope: "shared", onError: "hold", ...options }, handler);
  const headers = { "idempotency-key": NAME.key, "content-type": "application/json" };
  const init = { method: "POST", headers, body: '{"amount":1}' };
  return () => handle(new Request("http://shop.test/pay", init));
}

const codeOf = async (answer: Response) => ((await answer.json()) as { code: string }).code;

const held = {
  http: (from: Idempotency, options = {}) => failure(route(from, options, fail as never)()),
  value: (from: Idempotency) => failure(from.run({ ...NAME, onError: "hold" }, fail)),
};

/** As another program may, which does not know what it resolves. */
async function resolve(store: Store, id: string, result: StoredResult): Promise<void> {
  const resolution = { id, retentionMs: 60_000, kind: "complete" } as const;
  expect(await store.resolve({ ...resolution, result: await seal(result) })).toEqual({
    kind: "resolved",
  });
}

describe("resolve()", () => {
  const selections = [
    "bytes",
    "json",
    { include: ["/amount"] },
    () => 1,
  ] satisfies HttpOptions<Request>["fingerprint"][];

  test.each(selections)("takes a response alone for a request over HTTP, by %o", async (one) => {
    for (const options of [{}, { hashKeys: Buffer.alloc(32, 7) }]) {
      const { idempotency } = fixture(options);
      await held.http(idempotency, { fingerprint: one });
      expect(await failure(idempotency.resolve(NAME, VALUE))).toMatchObject({
        code: "option-invalid",
        message: expect.stringContaining("httpResult("),
      });
      expect(await idempotency.status(NAME)).toMatchObject({ state: "held" });
      expect(await idempotency.resolve(NAME, RESPONSE)).toEqual({ kind: "resolved" });
      expect((await route(idempotency, { fingerprint: one })()).status).toBe(201);
    }
  });

  test("takes a value alone for an operation of run(), and for a durable one", async () => {
    const { idempotency } = fixture();
    await held.value(idempotency);
    const ride = idempotency.operation("ride", { handler: (_, one) => one.hold("no answer") });
    await failure(ride.run(NAME));
    for (const name of [NAME, { ...NAME, operation: ride.name }]) {
      expect(await failure(idempotency.resolve(name, RESPONSE))).toMatchObject({
        code: "option-invalid",
        message: expect.stringContaining("`value`"),
      });
      expect(await idempotency.resolve(name, VALUE)).toEqual({ kind: "resolved" });
    }
    expect((await idempotency.run(NAME, again)).value).toEqual(VALUE.value);
    expect((await ride.run(NAME)).value).toEqual(VALUE.value);
  });

  test("says of what is not held that it is not, whatever the result", async () => {
    const { idempotency } = fixture();
    await idempotency.run(NAME, () => 1);
    expect(await idempotency.resolve(NAME, RESPONSE)).toEqual({
      kind: "refused",
      state: "completed",
    });
    expect(await idempotency.resolve({ key: "none" }, RESPONSE)).toEqual({ kind: "absent" });
  });
});

describe("a result of another kind than its operation", () => {
  async function resolvedAsOther(engine: Fixture, kind: "http" | "value"): Promise<void> {
    await held[kind](engine.idempotency);
    const value = { kind: "value", omitted: false, bytes: jsonCodec.encode(1) } as const;
    await resolve(engine.store, recordId("", NAME.key), kind === "http" ? value : RESPONSE.result);
  }

  test("over HTTP: 409 result-not-stored, and never a new key", async () => {
    const engine = fixture();
    await resolvedAsOther(engine, "http");
    const json = { fingerprint: "json" } as const;
    // The second is a duplicate of the first; from then on the cache answers.
    for (const options of [{}, {}, json, json]) {
      const both = [route(engine.idempotency, options)(), route(engine.idempotency, options)()];
      for (const answer of await Promise.all(both)) {
        expect(answer.status).toBe(409);
        expect(await answer.json()).toMatchObject({ code: "result-not-stored", retry: "never" });
        expect(answer.headers.get("idempotency-status")).toBe("replayed");
      }
    }
    expect(engine.store.calls.begin).toBe(2);
  });

  test("the cache does not forget that it was a request over HTTP, whoever else has its value", async () => {
    const engine = fixture();
    await resolvedAsOther(engine, "http");
    expect((await engine.idempotency.run(NAME, again)).value).toBe(1);
    const answer = await route(engine.idempotency)();
    expect(await answer.json()).toMatchObject({ code: "result-not-stored" });
  });

  test("of run(): ResultNotStored, also under another selection, and whoever asks", async () => {
    const engine = fixture();
    await resolvedAsOther(engine, "value");
    const select = { ...NAME, payload: {}, fingerprint: { include: ["/a"] } };
    for (const from of [engine.idempotency, engine.another(), engine.another({ cache: false })]) {
      for (const request of [NAME, NAME, select]) {
        const both = [from.run(request, again), from.run(request, again)];
        for (const { reason } of (await Promise.allSettled(both)) as PromiseRejectedResult[]) {
          expect(reason).toMatchObject({ code: "result-not-stored", retry: "never" });
        }
      }
    }
  });

  test("of a durable operation: it has completed, and has no value", async () => {
    const { idempotency, store } = fixture();
    const ride = idempotency.operation("ride", { handler: (_, one) => one.hold("no answer") });
    await failure(ride.run(NAME));
    const [record] = (await store.list({ limit: 1 })).records;
    await resolve(store, record!.id, RESPONSE.result);
    expect(await ride.start(NAME)).toEqual({ started: false, status: "completed" });
    expect(await failure(ride.run(NAME))).toMatchObject({ code: "result-not-stored" });
  });
});

test("one key for both kinds of operation is reused, whichever came first", async () => {
  const { idempotency, another } = fixture();
  await idempotency.run(NAME, () => 1);
  for (const from of [idempotency, another()]) {
    const answer = await route(from)();
    expect([answer.status, await codeOf(answer)]).toEqual([422, "key-reused"]);
  }
  const other = fixture();
  await route(other.idempotency, {}, () => new Response("paid") as never)();
  for (const from of [other.idempotency, other.another()]) {
    expect(await failure(from.run(NAME, again))).toMatchObject({ code: "key-reused" });
  }
});
