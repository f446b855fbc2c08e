// What can be wrong about an endpoint's options, and about what is mounted before it.

import { once } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import express from "express";
import { afterEach, describe, expect, test, vi } from "vitest";
import { InvalidOption } from "../../src/errors.ts";
import { type Verifier, type WebhookOptions, webhook } from "../../src/webhooks/index.ts";
import { failure, fixture } from "../engine/fixture.ts";
import { listen } from "../frameworks/node-server.ts";
import { githubSender, standardSender, stripeSender } from "./senders.ts";

const closing: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const close of closing.splice(0)) await close();
});

const options: WebhookOptions = { scope: "hook", verify: stripeSender.verifier };

test.each([
  [{ scope: undefined }, "`scope` must be given"],
  [{ scope: "" }, "`scope` must be given"],
  [{ verify: undefined }, "`verify` must be a verifier"],
  [{ verfiy: stripeSender.verifier }, "did you mean `verify`"],
  [{ id: "x-id" }, "`id` must be a function"],
  [{ onRejected: true }, "`onRejected` must be a function"],
  [{ maxBodyBytes: -1 }, "`maxBodyBytes` must be"],
  [{ retention: "tomorrow" }, "`retention` must be"],
])("%o is refused by name", (wrong, message) => {
  const make = () => webhook(fixture().idempotency, { ...options, ...wrong } as WebhookOptions);
  expect(make).toThrow(InvalidOption);
  expect(make).toThrow(message);
});

describe("retention", () => {
  const warnings = () =>
    vi.spyOn(process, "emitWarning").mockImplementation(() => {}) as unknown as {
      mock: { calls: unknown[][] };
      mockRestore(): void;
    };

  test("a retention shorter than its sender's retries is reported", () => {
    const spy = warnings();
    webhook(fixture().idempotency, { ...options, retention: "1h" });
    webhook(fixture().idempotency, {
      ...options,
      verify: standardSender.verifier,
      retention: "3d",
    });
    const said = spy.mock.calls.map(([message]) => message);
    spy.mockRestore();
    expect(said).toEqual([
      expect.stringContaining("repeats them for up to 72 h"),
      expect.stringContaining("repeats them for up to 76 h"),
    ]);
  });

  test("one that suffices is not, nor where the sender repeats nothing by itself", () => {
    const spy = warnings();
    webhook(fixture().idempotency, { ...options, retention: "3d" });
    webhook(fixture().idempotency, { ...options, verify: githubSender.verifier, retention: "1h" });
    webhook(fixture().idempotency, options);
    const said = spy.mock.calls.length;
    spy.mockRestore();
    expect(said).toBe(0);
  });

  test("a verifier of one's own says for how long its sender repeats", () => {
    const spy = warnings();
    const verify = Object.assign(() => ({ id: "1" }), { retryHorizonMs: 2 * 86_400_000 });
    webhook(fixture().idempotency, { scope: "hook", verify, retention: "1d" });
    webhook(fixture().idempotency, { scope: "hook", verify, retention: "2d" });
    webhook(fixture({ retention: "1d" }).idempotency, { scope: "hook", verify });
    const said = spy.mock.calls.map(([message]) => message);
    spy.mockRestore();
    expect(said).toEqual([expect.stringContaining("repeats them for up to 48 h")]);
    const wrong = Object.assign(() => ({ id: "1" }), { retryHorizonMs: Number.NaN });
    expect(() => webhook(fixture().idempotency, { scope: "hook", verify: wrong })).toThrow(
      "`verify.retryHorizonMs` must be",
    );
  });

  test("without one, a delivery is remembered for as long as its sender repeats it", async () => {
    const { idempotency, clock } = fixture({ retention: "1h" });
    let runs = 0;
    const handler = webhook(idempotency, options).fetch(() => new Response(`${++runs}`));
    const send = async () => {
      const { body, headers } = stripeSender.deliver("evt_1");
      const request = new Request("http://localhost/", { method: "POST", body, headers });
      return (await handler(request)).text();
    };
    expect(await send()).toBe("1");
    await clock.advance(71 * 3_600_000);
    expect(await send()).toBe("1");
    await clock.advance(2 * 3_600_000);
    expect(await send()).toBe("2");
  });
});

describe("a body that was read before", () => {
  test("of a `Request` is refused, and the message says what to do", async () => {
    const handler = webhook(fixture().idempotency, options).fetch(() => new Response());
    const { body, headers } = stripeSender.deliver("evt_1");
    const request = new Request("http://localhost/", { method: "POST", body, headers });
    await request.json();
    const error = await failure(handler(request));
    expect(error).toBeInstanceOf(InvalidOption);
    expect(String(error)).toContain("pass the request on unread");
  });

  const keptAsText = express.json({
    verify: (request, _response, bytes) => {
      (request as { rawBody?: unknown }).rawBody = bytes.toString("latin1");
    },
  });

  async function mounted(parsers: express.RequestHandler[], more: Partial<WebhookOptions> = {}) {
    const errors: unknown[] = [];
    const fixed = fixture();
    const reportError = (error: unknown) => errors.push(error);
    const hook = webhook(fixed.idempotency, { ...options, reportError, ...more });
    const app = express();
    app.use("/hooks", ...parsers);
    app.post(
      "/hooks/stripe",
      hook.node((_request, response, delivery) => response.end(delivery.id)),
    );
    const server = createServer(app).listen(0, "127.0.0.1");
    await once(server, "listening");
    closing.push(async () => {
      server.close();
      await once(server, "close");
    });
    const { body, headers } = stripeSender.deliver("evt_1");
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/hooks/stripe`;
    const send = () =>
      fetch(url, {
        method: "POST",
        body,
        headers: { ...headers, "content-type": "application/json", connection: "close" },
      });
    const answers = [await send(), await send()];
    return { answers, errors, store: fixed.store };
  }

  test.each([
    ["JSON", express.json()],
    ["text", express.text({ type: () => true })],
    ["a form", express.urlencoded({ type: () => true })],
    ["JSON, and whose bytes were kept as text", keptAsText],
  ])("by Express as %s is refused with the remedy, and nothing runs", async (_, parser) => {
    const { answers, errors, store } = await mounted([parser]);
    expect(answers.map(({ status }) => status)).toEqual([500, 500]);
    expect(errors[0]).toBeInstanceOf(InvalidOption);
    expect(String(errors[0])).toContain("express.raw({ type: () => true })");
    expect(await answers[0]!.json()).toEqual({ title: "Internal Server Error", status: 500 });
    expect(store.calls.total).toBe(0);
  });

  const keep = express.json({
    verify: (request, _response, bytes) => {
      (request as { rawBody?: Uint8Array }).rawBody = bytes;
    },
  });

  test.each([
    ["read", (_request, _response, next) => next()],
    ["kept by `express.raw()`", express.raw({ type: () => true })],
    ["kept as `rawBody`", keep],
  ] as [string, express.RequestHandler][])("one over the bound gets 413, %s", async (_, parser) => {
    const { answers, errors, store } = await mounted([parser], { maxBodyBytes: 20 });
    expect(answers.map(({ status }) => status)).toEqual([413, 413]);
    expect([errors, store.calls.total]).toEqual([[], 0]);
  });

  test.each([
    ["nothing is mounted before", []],
    ["`express.raw()` keeps its bytes", [express.raw({ type: () => true })]],
    ["`express.json()` keeps its bytes as `rawBody`", [keep]],
  ])("%s: it is verified and run once", async (_, parsers) => {
    const { answers, errors } = await mounted([
      (_request, _response, next) => next(),
      ...(parsers as express.RequestHandler[]),
    ]);
    expect(await Promise.all(answers.map((answer) => answer.text()))).toEqual(["evt_1", "evt_1"]);
    expect(answers[1]!.headers.get("idempotent-replayed")).toBe("true");
    expect(errors).toEqual([]);
  });
});

describe("a verifier of one's own", () => {
  const post = () => new Request("http://localhost/", { method: "POST", body: "{}" });

  test("that throws, or rejects, lets nothing in", async () => {
    const { idempotency, store } = fixture();
    const refusing: Verifier[] = [
      () => {
        throw new Error("no");
      },
      async () => Promise.reject(new TypeError("not even that")),
    ];
    for (const verify of refusing) {
      const handler = webhook(idempotency, { scope: "hook", verify }).fetch(() => new Response());
      expect((await handler(post())).status).toBe(401);
    }
    expect(store.calls.total).toBe(0);
  });

  test.each([false, true, undefined, null, "evt_1"])(
    "that returns %o is a mistake, and lets nothing in",
    async (returned) => {
      const { idempotency, store } = fixture();
      const verify = (() => returned) as unknown as Verifier;
      const handler = webhook(idempotency, { scope: "hook", verify }).fetch(() => new Response());
      expect(await failure(handler(post()))).toBeInstanceOf(InvalidOption);
      expect(store.calls.total).toBe(0);
    },
  );

  test("that returns an id serves, and an id that is no key is refused", async () => {
    const { idempotency } = fixture();
    const verify: Verifier = async ({ header }) => ({ id: header("X-Id") });
    const handler = webhook(idempotency, { scope: "hook", verify }).fetch(() => new Response("ok"));
    const send = async (id: string) => {
      const request = new Request("http://localhost/", {
        method: "POST",
        body: "{}",
        headers: { "x-id": id },
      });
      return (await handler(request)).status;
    };
    expect(await send("one")).toBe(200);
    expect(await send("é")).toBe(400);
    expect(await send("x".repeat(256))).toBe(400);
  });
});

test("an `onRejected` that throws is warned of, and the delivery is refused as any other", async () => {
  const spy = vi.spyOn(process, "emitWarning").mockImplementation(() => {});
  const { idempotency, store } = fixture();
  const onRejected = () => {
    throw new Error("the log is full");
  };
  const handler = webhook(idempotency, { ...options, onRejected }).fetch(() => new Response());
  const post = () => new Request("http://localhost/", { method: "POST", body: "{}" });
  const statuses = [(await handler(post())).status, (await handler(post())).status];
  const said = spy.mock.calls.map(([message]) => message);
  spy.mockRestore();
  expect(statuses).toEqual([401, 401]);
  expect(said).toContainEqual(expect.stringContaining("`onRejected` threw: the log is full"));
  expect(store.calls.total).toBe(0);
});

test("a client that leaves half-way of its body runs nothing", async () => {
  const errors: unknown[] = [];
  const { idempotency, store } = fixture();
  const ended = new Promise<void>((resolve) => {
    const hook = webhook(idempotency, { ...options, reportError: (error) => errors.push(error) });
    const handler = hook.node((_request, response) => response.end());
    void listen((request, response) => void handler(request, response).then(resolve)).then(
      async ({ port, close }) => {
        closing.push(close);
        const { connect } = await import("node:net");
        const socket = connect(port, "127.0.0.1");
        await once(socket, "connect");
        socket.write("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nhalf");
        setImmediate(() => socket.destroy());
      },
    );
  });
  await ended;
  expect(errors).toEqual([]);
  expect(store.calls.total).toBe(0);
});
