// Retries (CL-2): what is sent again and when, bounds, and abort in every phase. Sockets are real,
// time is moved by hand.

import { getEventListeners } from "node:events";
import { describe, expect, test } from "vitest";
import { createClient, NoAnswer } from "../../src/client/index.ts";
import { isSemelError } from "../../src/errors.ts";
import { manualClock } from "../../src/testing/manual-clock.ts";
import { FAST, gate, paymentService, rawServer, recorder } from "./fixture.ts";

const POST = { method: "POST", body: "amount=1200" } as const;
const AT = Date.UTC(2026, 10, 22, 6, 0, 0);

const http = (status: string, ...lines: string[]) =>
  [`HTTP/1.1 ${status}`, ...lines, "connection: close", "content-length: 0", "", ""].join("\r\n");

/** Answers every request with what a function says, by its number from 0. */
function answering(answer: (index: number) => string) {
  return rawServer((socket, index) => {
    socket.once("data", () => socket.end(answer(index)));
  });
}

/** A client whose pauses end as soon as they begin, and which lists them. */
async function pauses(
  answer: (index: number) => string,
  options: Parameters<typeof createClient>[0] = {},
) {
  const clock = manualClock(AT);
  const { events, onEvent } = recorder();
  const client = createClient({
    clock,
    onEvent: (event) => {
      onEvent(event);
      if (event.type === "retry") void clock.advance(event.delayMs);
    },
    random: () => 0.5,
    ...options,
  });
  const response = await client(await answering(answer), POST);
  const delays = events.flatMap((event) => (event.type === "retry" ? [event.delayMs] : []));
  return { response, delays, clock, events };
}

describe("pauses", () => {
  test("are random(0, min(cap, base·2^n))", async () => {
    const { response, delays } = await pauses(() => http("503 x"), {
      retry: { base: 100, cap: 1_000, attemptsMax: 7 },
    });
    expect(response.status).toBe(503);
    expect(delays).toEqual([50, 100, 200, 400, 500, 500]);
  });

  test("are what `Retry-After` says, in seconds and as a date", async () => {
    const { delays } = await pauses(
      (index) =>
        [
          http("429 x", "retry-after: 7"),
          http("503 x", "retry-after: Sun, 22 Nov 2026 06:00:20 GMT"),
          http("503 x", "retry-after: never mind"),
          http("200 OK"),
        ][index]!,
    );
    // The second was asked for when 7 s had passed.
    expect(delays).toEqual([7_000, 13_000, 400]);
  });

  test("one that would pass the deadline is not begun: the answer is given at once", async () => {
    const { response, delays, events, clock } = await pauses(
      () => http("503 x", "retry-after: 60"),
      {
        deadline: "60s",
      },
    );
    expect(response.status).toBe(503);
    expect(delays).toEqual([]);
    expect(events.at(-1)).toMatchObject({ type: "end", reason: "deadline", attempts: 1 });
    expect(clock.pending).toBe(0);
  });
});

describe("what is sent again", () => {
  test("409 with the advice same-key until the first attempt is done, and its answer comes", async () => {
    const held = gate();
    const service = await paymentService({ beforeAnswer: () => held.opened });
    const clock = manualClock();
    const { onEvent, next } = recorder();
    const client = createClient({ clock, onEvent });
    const idempotency = { key: "k" };
    const first = client(service.url, { ...POST, idempotency });
    await expect.poll(() => service.payments).toHaveLength(1);
    const busy = next("retry");
    const second = client(service.url, { ...POST, idempotency });
    expect(await busy).toMatchObject({ delayMs: 1_000, isRetryAfter: true });
    held.open();
    const answer = await (await first).text();
    await clock.advance(1_000);
    expect(await (await second).text()).toBe(answer);
    expect(service.payments).toHaveLength(1);
  });

  test.each([
    ["409 without advice", http("409 x")],
    ["400", http("400 x")],
    ["404", http("404 x")],
    ["501", http("501 x")],
    ["a stored 500", http("500 x", "idempotency-status: replayed")],
  ])("%s is not", async (_name, answer) => {
    const { response, delays } = await pauses(() => answer);
    expect(delays).toEqual([]);
    expect(response.status).toBe(Number(answer.slice(9, 12)));
  });

  test("what the server held is not: the caller learns that the outcome is unknown", async () => {
    const service = await paymentService({
      onError: "hold",
      answer: (response) => response.writeHead(500).end("half done"),
    });
    const client = createClient({ retry: FAST });
    const idempotency = { key: "k" };
    const first = await client(service.url, { ...POST, idempotency });
    expect(first.status).toBe(500);
    const second = await client(service.url, { ...POST, idempotency });
    expect(second.status).toBe(409);
    expect(await second.json()).toMatchObject({ code: "outcome-unknown", retry: "never" });
    expect(service.seen).toHaveLength(2);
  });

  test("refused and reset connections", async () => {
    const url = await rawServer((socket, index) => {
      if (index < 2) socket.resetAndDestroy();
      else socket.once("data", () => socket.end(http("200 OK")));
    });
    const response = await createClient({ retry: FAST })(url, POST);
    expect(response.status).toBe(200);
  });

  test("a frozen server, when the attempt's time is over", async () => {
    const asked = gate();
    const url = await rawServer((socket, index) => {
      socket.once("data", () => (index === 0 ? asked.open() : socket.end(http("200 OK"))));
    });
    const clock = manualClock();
    const { onEvent, next } = recorder();
    const client = createClient({ clock, onEvent, attemptTimeout: "30s", random: () => 0 });
    const retried = next("retry");
    const response = client(url, POST);
    await asked.opened;
    await clock.advance(30_000);
    await retried;
    await clock.advance(1);
    expect((await response).status).toBe(200);
    expect(clock.pending).toBe(0);
  });

  test("an answer that stops half-way, when the attempt's time is over; one that only drips is read", async () => {
    const body = "x".repeat(200);
    const whole = `HTTP/1.1 200 OK\r\ncontent-length: ${body.length}\r\nconnection: close\r\n\r\n${body}`;
    const stopped = gate();
    const url = await rawServer((socket, index) => {
      socket.once("data", async () => {
        for (const [at, character] of [...whole].entries()) {
          if (index === 0 && at === whole.length - 1) return stopped.open();
          socket.write(character);
          await new Promise((resolve) => setImmediate(resolve));
        }
      });
    });
    const clock = manualClock();
    const { events, onEvent, next } = recorder();
    const client = createClient({ clock, onEvent, random: () => 0 });
    const retried = next("retry");
    const response = client(url, POST);
    await stopped.opened;
    await clock.advance(30_000);
    await retried;
    await clock.advance(1);
    expect(await (await response).text()).toBe(body);
    expect(events.filter(({ type }) => type === "failure")).toHaveLength(1);
  });
});

describe("when there will be no other attempt", () => {
  test("the last answer is returned, with its body", async () => {
    const service = await paymentService({
      front: (_request, response) => {
        response.writeHead(503, { "content-type": "text/plain" }).end("later");
        return true;
      },
    });
    const response = await createClient({ retry: { ...FAST, attemptsMax: 3 } })(service.url, POST);
    expect(response.status).toBe(503);
    expect(await response.text()).toBe("later");
    expect(service.seen).toHaveLength(3);
  });

  test("and no answer came: the error says that the outcome is unknown, and has the key to go on with", async () => {
    let isUp = false;
    const service = await paymentService({
      front: (request) => {
        if (!isUp) request.socket.destroy();
        return !isUp;
      },
    });
    const client = createClient({ retry: { ...FAST, attemptsMax: 3 } });
    const error: NoAnswer = await client(`${service.url}?token=secret`, POST).then(
      () => expect.unreachable(),
      (error) => error,
    );
    expect(error).toBeInstanceOf(NoAnswer);
    expect(isSemelError(error)).toBe(true);
    expect(error).toMatchObject({
      code: "no-answer",
      retry: "same-key",
      attempts: 3,
      gaveUp: "attempts",
    });
    expect(error.message).toContain("outcome is unknown");
    expect(error.message).not.toContain("secret");
    expect(error.cause).toBeInstanceOf(TypeError);
    isUp = true;
    const response = await client(service.url, {
      ...POST,
      headers: { "repeatability-first-sent": error.firstSent },
      idempotency: { key: error.key },
    });
    expect(response.status).toBe(201);
    const keys = service.seen.map(({ headers }) => headers["idempotency-key"]);
    expect(new Set(keys).size).toBe(1);
    expect(service.seen[3]?.headers["repeatability-first-sent"]).toBe(error.firstSent);
  });

  test("a safe request throws what fetch throws", async () => {
    const url = await rawServer((socket) => socket.resetAndDestroy());
    await expect(createClient({ retry: FAST })(url)).rejects.toThrow(TypeError);
  });

  test("the deadline ends an attempt that runs", async () => {
    const asked = gate();
    const url = await rawServer((socket) => socket.once("data", () => asked.open()));
    const clock = manualClock();
    const client = createClient({ clock, deadline: "10s" });
    const call = client(url, POST);
    const settled = expect(call).rejects.toMatchObject({
      gaveUp: "deadline",
      attempts: 1,
      cause: { name: "TimeoutError" },
    });
    await asked.opened;
    await clock.advance(10_000);
    await settled;
    expect(clock.pending).toBe(0);
  });

  test("the budget is shared by all calls, and successes fill it again", async () => {
    let isUp = false;
    const url = await answering(() => http(isUp ? "200 OK" : "503 x"));
    const { events, onEvent } = recorder();
    const client = createClient({
      retry: { ...FAST, attemptsMax: 4 },
      budget: { tokensMax: 10, retryCost: 2 },
      onEvent,
    });
    const attemptsOf = async () => {
      events.length = 0;
      await client(url, POST);
      const end = events.at(-1);
      return end?.type === "end" ? [end.attempts, end.reason] : [];
    };
    expect(await attemptsOf()).toEqual([4, "attempts"]); // 4 tokens are left
    expect(await attemptsOf()).toEqual([3, "budget"]);
    expect(await attemptsOf()).toEqual([1, "budget"]);
    isUp = true;
    expect(await attemptsOf()).toEqual([1, "answered"]);
    expect(await attemptsOf()).toEqual([1, "answered"]);
    isUp = false;
    expect(await attemptsOf()).toEqual([2, "budget"]);
  });

  test("`budget: false` sets no such bound", async () => {
    const url = await answering(() => http("503 x"));
    const { events, onEvent } = recorder();
    const retry = { ...FAST, attemptsMax: 150 };
    await createClient({ retry, budget: false, onEvent })(url, POST);
    expect(events.at(-1)).toMatchObject({ reason: "attempts", attempts: 150 });
  });
});

describe("abort, with the caller's own reason, and nothing left behind", () => {
  const reason = new Error("the user left");

  async function aborted(
    during: (
      controller: AbortController,
      clock: ReturnType<typeof manualClock>,
    ) => Promise<unknown>,
  ) {
    const controller = new AbortController();
    const clock = manualClock();
    await expect(during(controller, clock)).rejects.toBe(reason);
    expect(getEventListeners(controller.signal, "abort")).toEqual([]);
    expect(clock.pending).toBe(0);
  }

  test("before: nothing is sent", async () => {
    const service = await paymentService();
    await aborted((controller, clock) => {
      controller.abort(reason);
      return createClient({ clock })(service.url, { ...POST, signal: controller.signal });
    });
    expect(service.seen).toHaveLength(0);
  });

  test("while the key is saved", async () => {
    const service = await paymentService();
    await aborted((controller, clock) => {
      const storage = {
        getItem: () => {
          controller.abort(reason);
          return new Promise<null>(() => {});
        },
        setItem: () => {},
        removeItem: () => {},
      };
      const client = createClient({ clock, storage });
      const idempotency = { operation: "o" };
      return client(service.url, { ...POST, idempotency, signal: controller.signal });
    });
    expect(service.seen).toHaveLength(0);
  });

  test("while an attempt runs", async () => {
    let asked = () => {};
    const url = await rawServer((socket) => socket.once("data", () => asked()));
    await aborted((controller, clock) => {
      asked = () => controller.abort(reason);
      return createClient({ clock })(url, { ...POST, signal: controller.signal });
    });
  });

  test("by the signal of a Request", async () => {
    const controller = new AbortController();
    const url = await rawServer((socket) => {
      socket.once("data", () => controller.abort(reason));
    });
    const request = new Request(url, { ...POST, signal: controller.signal });
    await expect(createClient()(request)).rejects.toBe(reason);
    expect(getEventListeners(request.signal, "abort")).toEqual([]);
  });

  test("while an answer is read", async () => {
    const url = await rawServer((socket) => {
      socket.once("data", () => socket.write("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf"));
    });
    await aborted((controller, clock) => {
      const client = createClient({
        clock,
        fetch: async (...request) => {
          const response = await fetch(...request);
          queueMicrotask(() => controller.abort(reason));
          return response;
        },
      });
      return client(url, { ...POST, signal: controller.signal });
    });
  });

  test("in a pause", async () => {
    const url = await answering(() => http("503 x", "retry-after: 60"));
    await aborted((controller, clock) => {
      const client = createClient({
        clock,
        onEvent: ({ type }) => {
          if (type === "retry") queueMicrotask(() => controller.abort(reason));
        },
      });
      return client(url, { ...POST, signal: controller.signal });
    });
  });

  test("a fetch that knows no signals is not waited for", async () => {
    await aborted((controller, clock) => {
      const client = createClient({
        clock,
        fetch: () => {
          controller.abort(reason);
          return new Promise(() => {});
        },
      });
      return client("http://localhost/", { ...POST, signal: controller.signal });
    });
  });

  test("of an answer that flows: its body ends with the reason", async () => {
    const service = await paymentService({
      answer: (response) => {
        response.writeHead(200);
        response.write("first");
      },
    });
    const controller = new AbortController();
    const idempotency = { stream: true };
    const { signal } = controller;
    const response = await createClient()(service.url, { ...POST, idempotency, signal });
    const reader = response.body!.getReader();
    expect(new TextDecoder().decode((await reader.read()).value)).toBe("first");
    controller.abort(reason);
    await expect(reader.read()).rejects.toBe(reason);
  });

  test("after the answer nothing listens any more", async () => {
    const service = await paymentService();
    const controller = new AbortController();
    const clock = manualClock();
    await createClient({ clock })(service.url, { ...POST, signal: controller.signal });
    expect(getEventListeners(controller.signal, "abort")).toEqual([]);
    expect(clock.pending).toBe(0);
  });
});
