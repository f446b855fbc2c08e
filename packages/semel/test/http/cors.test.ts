import { describe, expect, test } from "vitest";
import { Idempotency } from "../../src/engine/idempotency.ts";
import { idempotent as onFetch } from "../../src/frameworks/fetch.ts";
import { idempotent as onNode } from "../../src/frameworks/node.ts";
import { exposedHeaders } from "../../src/http/cors.ts";
import { memoryStore } from "../../src/stores/memory.ts";
import { field, send } from "../../src/testing/framework-suite/index.ts";
import { listen } from "../frameworks/node-server.ts";

const ALL = "Idempotency-Status, Idempotency-Expires, Idempotent-Replayed, Retry-After";

describe("HTTP-18: exposed headers", () => {
  const exposed = (fields: Record<string, unknown>) => exposedHeaders((name) => fields[name]);

  test("nothing is exposed where the application allows no origin", () => {
    expect(exposed({})).toBeUndefined();
    expect(exposed({ "access-control-expose-headers": "ETag" })).toBeUndefined();
  });

  test("what the application exposes stays, and nothing is said twice", () => {
    const origin = { "access-control-allow-origin": "https://shop.example" };
    expect(exposed(origin)).toBe(ALL);
    expect(exposed({ ...origin, "access-control-expose-headers": ["ETag", "retry-after"] })).toBe(
      "ETag, retry-after, Idempotency-Status, Idempotency-Expires, Idempotent-Replayed",
    );
    expect(exposed({ ...origin, "access-control-expose-headers": ALL })).toBeUndefined();
  });
});

test("HTTP-18: executions, replays and refusals on node:http expose them, set by middleware outside", async () => {
  const listener = onNode(
    new Idempotency({ store: memoryStore() }),
    { scope: "shared", required: true },
    (request, response) => {
      response.end(request.url === "/stream" ? undefined : "done");
    },
  );
  const { port, close } = await listen((request, response) => {
    response.setHeader("access-control-allow-origin", "https://shop.example");
    void listener(request, response);
  });
  const headers = { "idempotency-key": "k" };
  for (const sent of [{ headers }, { headers }, {}]) {
    const answer = await send(port, { path: "/", ...sent });
    expect(field(answer, "access-control-expose-headers")).toBe(ALL);
  }
  await close();
});

test("HTTP-18: a fetch handler's own CORS headers are enough", async () => {
  const handler = onFetch(
    new Idempotency({ store: memoryStore() }),
    { scope: "shared" },
    () => new Response("done", { headers: { "access-control-allow-origin": "*" } }),
  );
  const headers = { "idempotency-key": "k" };
  const answer = await handler(new Request("http://localhost/", { method: "POST", headers }));
  expect(answer.headers.get("access-control-expose-headers")).toBe(ALL);
});
