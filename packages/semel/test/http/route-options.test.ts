// What one route may choose for itself, and operations that end without anybody knowing how.

import { expect, test } from "vitest";
import { Idempotency } from "../../src/engine/idempotency.ts";
import { type HttpOptions, idempotent, operationOf } from "../../src/frameworks/fetch.ts";
import { laidOver } from "../../src/http/options.ts";
import { memoryStore } from "../../src/stores/memory.ts";
import { crash, fixture, turns } from "../engine/fixture.ts";

type Handler = (request: Request) => Response | Promise<Response>;

function serving(options: Partial<HttpOptions<Request>>, handler: Handler, idempotency = fresh()) {
  const handle = idempotent(idempotency, { scope: "shared", ...options }, handler);
  const headers = { "idempotency-key": "k" };
  return () => handle(new Request("http://shop.test/pay", { method: "POST", headers }));
}

const fresh = () => new Idempotency({ store: memoryStore() });

async function codeOf(answer: Response): Promise<string | undefined> {
  const text = await answer.text();
  return text.startsWith("{") ? (JSON.parse(text) as { code: string }).code : undefined;
}

test("a route may keep less than the instance does, and not more (ST-10)", async () => {
  const post = serving({ maxResultBytes: 4 }, () => new Response("12345", { status: 201 }));
  expect(await (await post()).text()).toBe("12345");
  expect(await codeOf(await post())).toBe("result-not-stored");
  expect(() => serving({ maxResultBytes: 2 ** 21 }, () => new Response())).toThrow(
    /`maxResultBytes` must be a whole number from 0 to 1048576/,
  );
});

test("what a route leaves undefined stays as it is for all, but for a scope that is missing", () => {
  const whole: HttpOptions<Request> = { required: true, header: "X-Key", scope: "shared" };
  const own = { required: undefined, header: "X-Own", retention: "1h" } as const;
  expect(laidOver(whole, own)).toEqual({ ...whole, header: "X-Own", retention: "1h" });
  expect(laidOver(whole, { scope: undefined as never }).scope).toBeUndefined();
});

test("headers may be left out of replays, and CORS headers put in, route by route (HTTP-13)", async () => {
  const answer = () =>
    new Response("ok", {
      headers: { "access-control-allow-origin": "https://a.test", location: "/1", etag: '"1"' },
    });
  const idempotency = fresh();
  const chosen = { storedHeaders: { deny: ["Location"], cors: true } };
  const post = serving(chosen, answer, idempotency);
  await post();
  const replay = await post();
  expect(replay.headers.get("idempotent-replayed")).toBe("true");
  expect(replay.headers.get("access-control-allow-origin")).toBe("https://a.test");
  expect(replay.headers.get("etag")).toBe('"1"');
  expect(replay.headers.get("location")).toBe(null);
  // Another route, which leaves them to its own middleware, does not replay them.
  const elsewhere = await serving({}, answer, idempotency)();
  expect(elsewhere.headers.get("idempotent-replayed")).toBe("true");
  expect(elsewhere.headers.get("access-control-allow-origin")).toBe(null);
  expect(() => serving({ storedHeaders: { alow: [] } as object }, answer)).toThrow(
    /did you mean `allow`/,
  );
});

test("where nobody knows, it is held, unless a probe can find out once the lease has lapsed (SM-4)", async () => {
  let runs = 0;
  const handler: Handler = (request) => {
    runs++;
    operationOf(request)?.unknown("the connection broke");
    return new Response("lost", { status: 502 });
  };
  const held = serving({ lease: "50ms" }, handler);
  expect((await held()).headers.get("idempotency-status")).toBe("unknown");
  expect(await codeOf(await held())).toBe("outcome-unknown");
  expect(runs).toBe(1);

  let probes = 0;
  const probed = serving(
    {
      lease: "50ms",
      onCrash: async () => {
        probes++;
        return { outcome: "applied", value: { status: 201, body: Buffer.from("charged") } };
      },
    },
    handler,
  );
  expect((await probed()).headers.get("idempotency-status")).toBe("unknown");
  let answer = await probed();
  while (answer.status === 409) {
    expect(await codeOf(answer)).toBe("operation-in-progress");
    await new Promise((resolve) => setTimeout(resolve, 10));
    answer = await probed();
  }
  expect([answer.status, await answer.text()]).toEqual([201, "charged"]);
  expect([runs, probes]).toEqual([2, 1]);
});

test("EN-6: what had failed, and was undone in part when its process died, is not answered as done", async () => {
  const engine = fixture();
  const undone: string[] = [];
  const booking = (idempotency: Idempotency, isDying: boolean) =>
    serving(
      { onError: "store", onCrash: "rerun" },
      async (request) => {
        const { step } = operationOf(request)!;
        await step("a", () => "a", {
          undo: () => (isDying ? new Promise(() => {}) : undone.push("a")),
        });
        await step("b", () => "b", { undo: () => undone.push("b") });
        if (isDying) throw new Error("sold out");
        return new Response("booked");
      },
      idempotency,
    );
  void booking(engine.idempotency, true)();
  await turns();
  await crash(engine);
  await engine.clock.advance(60_000);
  const post = booking(engine.another(), false);
  expect(await codeOf(await post())).toBe("operation-failed");
  expect(undone).toEqual(["b", "a"]);
  expect(await codeOf(await post())).toBe("operation-failed");
  expect(undone).toEqual(["b", "a"]);
});

test("a store that fails before a request runs says so; one that fails later does not (SM-22)", async () => {
  const { idempotency, plan } = fixture({ storeTimeout: 1, completionRetry: 0 });
  const handler: Handler = (request) => {
    void operationOf(request)?.step("charge", () => 1);
    return new Response("paid");
  };
  const post = serving({}, handler, idempotency);
  plan.push({ method: "begin", effect: "fail-before" });
  expect(await (await post()).json()).toMatchObject({
    code: "store-unavailable",
    detail: expect.stringMatching(/; nothing ran$/),
  });
  plan.splice(0, 1, { method: "append", effect: "fail-before" });
  const begun = await post();
  expect(begun.status).toBe(503);
  expect(await begun.json()).toMatchObject({
    code: "store-unavailable",
    detail: expect.stringMatching(/it may have been applied$/),
  });
});
