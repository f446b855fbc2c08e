// The client as a fetch (CL-1, CL-4): keys, bodies of every kind, answers of every kind, options.

import { describe, expect, expectTypeOf, test } from "vitest";
import {
  type Client,
  type ClientOptions,
  createClient,
  isSemelError,
  type KeyStorage,
} from "../../src/client/index.ts";
import { FAST, paymentService, rawServer, recorder } from "./fixture.ts";

const JSON_TYPE = { "content-type": "application/json" };

/** Answers the first `times` requests with a status, before Semel sees them. */
function failing(times: number, status = 503) {
  let left = times;
  return (_request: unknown, response: { writeHead(status: number): { end(): unknown } }) => {
    if (left-- <= 0) return false;
    response.writeHead(status).end();
    return true;
  };
}

describe("keys", () => {
  test("a POST and a PATCH get one UUIDv7, the same for every attempt, with the same bytes (CL-1)", async () => {
    for (const method of ["POST", "PATCH"]) {
      const service = await paymentService({ front: failing(2) });
      const client = createClient({ retry: FAST });
      const before = Date.now();
      const response = await client(service.url, { method, headers: JSON_TYPE, body: '{"a":1}' });
      expect(response.status).toBe(201);
      expect(service.seen.map(({ body }) => body)).toEqual(['{"a":1}', '{"a":1}', '{"a":1}']);
      const keys = new Set(service.seen.map(({ headers }) => headers["idempotency-key"]));
      expect(keys.size).toBe(1);
      const [key] = keys;
      expect(key).toMatch(
        /^"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"$/,
      );
      const madeAt = Number.parseInt(String(key).replaceAll(/["-]/g, "").slice(0, 12), 16);
      expect(madeAt).toBeGreaterThanOrEqual(before);
      expect(madeAt).toBeLessThanOrEqual(Date.now());
      expect(service.payments).toHaveLength(1);
    }
  });

  test("every attempt says when the operation was first sent, as an HTTP date (CL-4)", async () => {
    const service = await paymentService({ front: failing(2) });
    await createClient({ retry: FAST })(service.url, { method: "POST" });
    const dates = new Set(service.seen.map(({ headers }) => headers["repeatability-first-sent"]));
    expect(dates.size).toBe(1);
    expect([...dates][0]).toMatch(/^\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT$/);
  });

  test("two calls are two operations", async () => {
    const service = await paymentService();
    const client = createClient();
    await client(service.url, { method: "POST", body: "a" });
    await client(service.url, { method: "POST", body: "a" });
    expect(service.payments).toHaveLength(2);
  });

  test("a safe request gets no key, and is retried all the same", async () => {
    const service = await paymentService({ front: failing(1) });
    const response = await createClient({ retry: FAST })(service.url);
    expect(response.status).toBe(201);
    expect(service.seen).toHaveLength(2);
    for (const { headers } of service.seen) {
      expect(headers).not.toHaveProperty("idempotency-key");
      expect(headers).not.toHaveProperty("repeatability-first-sent");
    }
  });

  test("PUT and DELETE get a key when asked; without one they are repeated as RFC 9110 allows", async () => {
    for (const method of ["PUT", "DELETE"]) {
      const service = await paymentService({ front: failing(1), methods: ["PUT", "DELETE"] });
      await createClient({ retry: FAST })(service.url, { method, body: "x" });
      expect(service.seen.map(({ headers }) => headers["idempotency-key"])).toEqual([
        undefined,
        undefined,
      ]);
      await createClient({ methods: [method] })(service.url, { method, body: "x" });
      expect(service.seen[2]?.headers["idempotency-key"]).toBeDefined();
    }
  });

  test("an unsafe request without a key is sent once, whatever comes of it", async () => {
    const service = await paymentService({ front: failing(1) });
    const client = createClient({ methods: ["PUT"], retry: FAST });
    expect((await client(service.url, { method: "POST", body: "x" })).status).toBe(503);
    expect(service.seen).toHaveLength(1);
    const url = await rawServer((socket) => socket.destroy());
    await expect(client(url, { method: "POST" })).rejects.toThrow(TypeError);
  });

  test("a key that the caller set is kept, in either place", async () => {
    const service = await paymentService({ front: failing(1) });
    const client = createClient({ retry: FAST });
    const headers = { "idempotency-key": "order-42" };
    await client(service.url, { method: "POST", headers });
    const again = await client(service.url, { method: "POST", idempotency: { key: "order-42" } });
    expect(again.headers.get("idempotent-replayed")).toBe("true");
    expect(service.seen.map(({ headers }) => headers["idempotency-key"])).toEqual([
      "order-42",
      "order-42",
      '"order-42"',
    ]);
  });

  test("a key on another unsafe method makes it a keyed request", async () => {
    const service = await paymentService({ methods: ["DELETE"] });
    await createClient()(service.url, { method: "DELETE", idempotency: { key: "d" } });
    expect(service.seen[0]?.headers["idempotency-key"]).toBe('"d"');
    expect(service.seen[0]?.headers).toHaveProperty("repeatability-first-sent");
  });

  test("keys come from a version 4, a digest of the request, or a function (CL-3)", async () => {
    const service = await paymentService();
    const send = (options: ClientOptions) =>
      createClient(options)(service.url, { method: "POST", headers: JSON_TYPE, body: "{}" });
    await send({ key: "uuidv4", syntax: "bare" });
    await send({ key: "hash" });
    const replayed = await send({ key: "hash" });
    expect(replayed.headers.get("idempotent-replayed")).toBe("true");
    await send({
      key: async ({ method, url, contentType, body, headers }) => {
        expect(headers.get("content-type")).toBe(contentType);
        return `${method} ${new URL(url).pathname} ${body.byteLength}`;
      },
    });
    const [v4, hash, sameHash, natural] = service.seen.map(
      ({ headers }) => headers["idempotency-key"],
    );
    expect(v4).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-4/);
    expect(hash).toMatch(/^"[0-9a-f]{64}"$/);
    expect(sameHash).toBe(hash);
    expect(natural).toBe('"POST /payments 2"');
  });

  test("a key in another header", async () => {
    const service = await paymentService({ header: "X-Request-Id" });
    await createClient({ header: "X-Request-Id" })(service.url, { method: "POST" });
    expect(service.seen[0]?.headers).toHaveProperty("x-request-id");
    expect(service.seen[0]?.headers).not.toHaveProperty("idempotency-key");
  });

  test.each(["", "käse", "x".repeat(256), 7])(
    "the key %j is refused, and nothing is sent",
    async (key) => {
      const service = await paymentService();
      const given = createClient()(service.url, {
        method: "POST",
        idempotency: { key: key as string },
      });
      await expect(given).rejects.toMatchObject({ code: "key-invalid" });
      const made = createClient({ key: () => key as string })(service.url, { method: "POST" });
      await expect(made).rejects.toMatchObject({ code: "key-invalid" });
      expect(service.seen).toHaveLength(0);
    },
  );
});

describe("bodies", () => {
  const bytes = new TextEncoder().encode("amount=1200");
  const stream = () =>
    new ReadableStream({
      start(controller) {
        controller.enqueue(bytes.slice(0, 4));
        controller.enqueue(bytes.slice(4));
        controller.close();
      },
    });
  const form = () => {
    const data = new FormData();
    data.set("amount", "1200");
    data.set("file", new Blob(["äöü"]), "a.txt");
    return data;
  };
  const BODIES: Record<string, () => NonNullable<RequestInit["body"]> | null> = {
    text: () => "amount=1200",
    bytes: () => bytes,
    "a buffer": () => bytes.buffer,
    "a part of a buffer": () => new Uint8Array(bytes.buffer, 3, 4),
    URLSearchParams: () => new URLSearchParams({ amount: "1200" }),
    Blob: () => new Blob([bytes], { type: "text/x-order" }),
    FormData: form,
    ReadableStream: stream,
    empty: () => "",
    none: () => null,
  };

  test.each(Object.keys(BODIES))(
    "%s: every attempt sends the same bytes and the same type",
    async (name) => {
      const service = await paymentService({ front: failing(2) });
      const body = BODIES[name]!();
      const response = await createClient({ retry: FAST })(service.url, { method: "POST", body });
      expect(response.status).toBe(201);
      expect(service.seen).toHaveLength(3);
      const [first, ...others] = service.seen;
      for (const other of others) {
        expect(other.body).toBe(first?.body);
        expect(other.headers["content-type"]).toBe(first?.headers["content-type"]);
      }
      if (name !== "FormData") {
        const plain = new Request("http://localhost/", {
          method: "POST",
          body: BODIES[name]!(),
          duplex: "half",
        });
        expect(first?.body).toBe(Buffer.from(await plain.arrayBuffer()).toString("latin1"));
        expect(first?.headers["content-type"]).toBe(plain.headers.get("content-type") ?? undefined);
      } else expect(first?.body).toContain('name="file"; filename="a.txt"');
    },
  );

  test.each(["text", "ReadableStream", "FormData", "none"])(
    "a Request with %s is sent again, too",
    async (name) => {
      const service = await paymentService({ front: failing(2) });
      const request = new Request(service.url, {
        method: "POST",
        headers: { "x-order": "42" },
        body: BODIES[name]!(),
        duplex: "half",
      });
      const response = await createClient({ retry: FAST })(request);
      expect(response.status).toBe(201);
      expect(new Set(service.seen.map(({ body }) => body)).size).toBe(1);
      expect(service.seen.map(({ headers }) => headers["x-order"])).toEqual(["42", "42", "42"]);
    },
  );

  test("a stream is held up to `maxRequestBytes`, and refused beyond it before anything is sent", async () => {
    const service = await paymentService();
    const send = (maxRequestBytes: number, body = stream()) =>
      createClient({ maxRequestBytes })(service.url, { method: "POST", body });
    expect((await send(bytes.byteLength)).status).toBe(201);
    await expect(send(bytes.byteLength - 1)).rejects.toMatchObject({
      code: "body-too-large",
      message: expect.stringContaining("maxRequestBytes"),
    });
    let isCancelled = false;
    const endless = new ReadableStream({
      pull: (controller) => controller.enqueue(bytes),
      cancel: () => {
        isCancelled = true;
      },
    });
    await expect(send(1_000, endless)).rejects.toMatchObject({ code: "body-too-large" });
    expect(isCancelled).toBe(true);
    expect(service.seen).toHaveLength(1);
  });

  test("a request that is sent once may stream without a bound", async () => {
    const service = await paymentService();
    const client = createClient({ methods: ["PUT"], maxRequestBytes: 0 });
    await client(service.url, { method: "POST", body: stream(), duplex: "half" });
    expect(service.seen[0]?.body).toBe("amount=1200");
  });

  test("what the caller does to its buffer and headers meanwhile does not reach later attempts", async () => {
    const service = await paymentService({ front: failing(1) });
    const own = new Uint8Array(bytes);
    const headers = new Headers({ "x-order": "42" });
    const client = createClient({
      retry: FAST,
      onEvent: ({ type }) => {
        if (type !== "retry") return;
        own.fill(0);
        headers.set("x-order", "43");
      },
    });
    await client(service.url, { method: "POST", headers, body: own });
    expect(service.seen.map(({ body }) => body)).toEqual(["amount=1200", "amount=1200"]);
    expect(service.seen.map(({ headers }) => headers["x-order"])).toEqual(["42", "42"]);
  });
});

describe("answers", () => {
  test.each([307, 308])(
    "to a redirect by %i get the same body at the new place",
    async (status) => {
      const bodies: [NonNullable<RequestInit["body"]>, string | undefined][] = [
        ["1200", "text/plain;charset=UTF-8"],
        [new TextEncoder().encode("1200"), undefined],
        [new Blob(["1200"], { type: "text/x-order" }), "text/x-order"],
      ];
      for (const [body, type] of bodies) {
        const service = await paymentService({
          front: (request, response) => {
            if (request.url !== "/old") return false;
            request
              .resume()
              .on("end", () => response.writeHead(status, { location: "/new" }).end());
            return true;
          },
        });
        const old = new URL("/old", service.url);
        const response = await createClient()(old, { method: "POST", body });
        expect(response.status).toBe(201);
        expect(service.payments).toEqual(["1200"]);
        for (const { headers } of service.seen) {
          expect(headers["content-type"]).toBe(type);
          expect(headers["content-length"]).toBe("4");
        }
      }
    },
  );

  test("are those of fetch: status, headers, URL, body; also 204 and redirects", async () => {
    const service = await paymentService({
      answer: (response, body) => {
        if (body === "none") return response.writeHead(204).end();
        if (body === "see") return response.writeHead(303, { location: "/other" }).end();
        return response.writeHead(201, { "x-a": "b" }).end(Buffer.from([0, 255, 128]));
      },
    });
    const client = createClient();
    const send = (body: string) => client(service.url, { method: "POST", body });
    const response = await send("bytes");
    expect(response).toBeInstanceOf(Response);
    expect(response.url).toBe(service.url);
    expect(response.headers.get("x-a")).toBe("b");
    expect(response.bodyUsed).toBe(false);
    expect([...new Uint8Array(await response.clone().arrayBuffer())]).toEqual([0, 255, 128]);
    expect([...new Uint8Array(await response.arrayBuffer())]).toEqual([0, 255, 128]);
    expect((await send("none")).status).toBe(204);
    const seen = await send("see");
    expect(seen.redirected).toBe(true);
    expect(seen.url).toBe(new URL("/other", service.url).href);
  });

  test("an answer above `maxResponseBytes` is whole for the caller", async () => {
    const large = "x".repeat(300_000);
    const service = await paymentService({ answer: (response) => response.end(large) });
    const client = createClient({ maxResponseBytes: 1_000 });
    const response = await client(service.url, { method: "POST" });
    expect(await response.text()).toBe(large);
  });

  test("`stream: true` and event streams give the answer as it comes", async () => {
    let finish = () => {};
    const service = await paymentService({
      answer: (response, body) => {
        response.writeHead(200, {
          "content-type": body === "events" ? "text/event-stream" : "text/plain",
        });
        response.write("first ");
        finish = () => response.end("last");
      },
    });
    const client = createClient();
    for (const body of ["events", "plain"]) {
      const idempotency = { stream: body === "plain" };
      const response = await client(service.url, { method: "POST", body, idempotency });
      const reader = response.body!.getReader();
      const decoder = new TextDecoder();
      expect(decoder.decode((await reader.read()).value)).toBe("first ");
      finish();
      expect(decoder.decode((await reader.read()).value)).toBe("last");
    }
  });

  test("the final refusals of Semel come back as they are", async () => {
    const service = await paymentService();
    // However little of an answer is read, a problem is.
    const client = createClient({ retry: FAST, maxResponseBytes: 0 });
    const idempotency = { key: "k" };
    await client(service.url, { method: "POST", body: "a", idempotency });
    const refused = await client(service.url, { method: "POST", body: "b", idempotency });
    expect(refused.status).toBe(422);
    expect(await refused.json()).toMatchObject({ code: "key-reused", retry: "new-key" });
    expect(service.seen).toHaveLength(2);
  });
});

describe("events", () => {
  test("tell every attempt in order (CL-4)", async () => {
    const service = await paymentService({ front: failing(1) });
    const { events, onEvent } = recorder();
    const client = createClient({ retry: FAST, random: () => 0.5, onEvent });
    await client(service.url, { method: "POST", idempotency: { key: "k", operation: "o" } });
    const subject = { method: "POST", url: service.url, key: "k", operation: "o" };
    expect(events).toEqual([
      { ...subject, type: "attempt", attempt: 1 },
      { ...subject, type: "answer", attempt: 1, status: 503, code: undefined },
      { ...subject, type: "retry", attempt: 1, delayMs: 0.5, isRetryAfter: false },
      { ...subject, type: "attempt", attempt: 2 },
      { ...subject, type: "answer", attempt: 2, status: 201, code: undefined },
      { ...subject, type: "end", attempts: 2, reason: "answered" },
    ]);
  });

  test("a listener that throws does not undo a payment", async () => {
    const service = await paymentService();
    const client = createClient({
      onEvent: () => {
        throw new Error("a bug");
      },
    });
    const printed: unknown[] = [];
    const original = console.error;
    console.error = (...values) => printed.push(values);
    try {
      expect((await client(service.url, { method: "POST" })).status).toBe(201);
    } finally {
      console.error = original;
    }
    expect(printed.length).toBeGreaterThan(0);
  });
});

describe("misuse", () => {
  test.each<[string, ClientOptions, RegExp]>([
    ["an unknown option", { retryy: 3 } as ClientOptions, /did you mean `retry`/],
    ["an unknown part of retry", { retry: { max: 3 } as object }, /no option `max`/],
    ["an unknown part of budget", { budget: { tokens: 3 } as object }, /no option `tokens`/],
    ["a key source", { key: "uuid" as "uuidv7" }, /did you mean "uuidv4"|"uuidv7"/],
    ["a duration", { deadline: "soon" as "1s" }, /`deadline` must be milliseconds/],
    ["a deadline of nothing", { deadline: 0 }, /`deadline` must be between/],
    ["no attempt", { retry: { attemptsMax: 0 } }, /retry.attemptsMax/],
    ["a safe method", { methods: ["GET"] }, /"GET"/],
    ["a header", { header: "not a name" }, /`header`/],
    ["a storage", { storage: {} as KeyStorage }, /it lacks getItem, setItem, removeItem/],
    ["locks alone", { locks: { request: (_name, work) => work() } }, /without `storage`/],
    ["a fetch", { fetch: "fetch" as never }, /`fetch` must be a function/],
    ["a budget below a retry", { budget: { tokensMax: 3 } }, /attemptsMax: 1/],
  ])("%s is refused by name", (_name, options, message) => {
    expect(() => createClient(options)).toThrow(message);
  });

  test("of a call is refused before anything is sent", async () => {
    const service = await paymentService();
    const client = createClient({ retry: FAST });
    const post = (init: object) => client(service.url, { method: "POST", ...init });
    const typo = { opration: "o" } as { operation?: string };
    await expect(post({ idempotency: typo })).rejects.toThrow(/did you mean `operation`/);
    const twice = { headers: { "idempotency-key": "a" }, idempotency: { key: "b" } };
    await expect(post(twice)).rejects.toThrow(/either/);
    const undated = { headers: { "repeatability-first-sent": "yesterday" } };
    await expect(post(undated)).rejects.toThrow(/HTTP date/);
    await expect(post({ mode: "no-cors" })).rejects.toThrow(/no-cors/);
    await expect(client("not a URL", { method: "POST" })).rejects.toThrow(TypeError);
    await expect(client("not a URL")).rejects.toThrow(TypeError);
    await expect(client.settle("o")).rejects.toThrow(/`storage`/);
    await expect(client.saved("o")).rejects.toThrow(/`storage`/);
    const read = new Request(service.url, { method: "POST", body: "x" });
    await read.text();
    await expect(client(read)).rejects.toThrow(TypeError);
    const form = new FormData();
    const hashing = createClient({ key: "hash" });
    const multipart = hashing(service.url, { method: "POST", body: form });
    await expect(multipart).rejects.toThrow(/FormData/);
    await expect(multipart).rejects.toSatisfy(isSemelError);
    expect(service.seen).toHaveLength(0);
  });
});

test("a client fits wherever a fetch does", () => {
  expectTypeOf<Client>().toExtend<typeof fetch>();
});
