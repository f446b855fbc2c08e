// `semel/fetch` against the conformance suite of frameworks, and with requests and responses alone.

import { describe, expect, test } from "vitest";
import { Idempotency, type IdempotencyOptions } from "../../src/engine/idempotency.ts";
import { type HttpOptions, idempotent } from "../../src/frameworks/fetch.ts";
import { memoryStore } from "../../src/stores/memory.ts";
import { frameworkCases, reasonToSkip, until } from "../../src/testing/framework-suite/index.ts";
import { faultyStore } from "../../src/testing/index.ts";
import { fetchHarness } from "./fetch-harness.ts";

describe("semel/fetch", () => {
  for (const frameworkCase of frameworkCases) {
    if (reasonToSkip(frameworkCase, fetchHarness) !== undefined) continue;
    test(frameworkCase.name, () => frameworkCase.run(fetchHarness));
  }
});

describe("fetch handlers without a server", () => {
  const request = (init: RequestInit = {}) =>
    new Request("http://localhost/a", {
      method: "POST",
      headers: { "idempotency-key": "k" },
      ...init,
    });

  function guarded(
    handler: (request: Request, ...rest: unknown[]) => Response | Promise<Response>,
    engine: Partial<IdempotencyOptions> = {},
    options: Partial<HttpOptions<Request>> = {},
  ) {
    const store = faultyStore(memoryStore());
    const idempotency = new Idempotency({ store, ...engine });
    return {
      store,
      idempotency,
      handle: idempotent(idempotency, { scope: "shared", ...options }, handler),
    };
  }

  const status = (response: Response) => response.headers.get("idempotency-status");
  const codeOf = async (response: Response) => ((await response.json()) as { code: string }).code;
  const chunk = (text: string) => new TextEncoder().encode(text);

  /** A body that the test writes by hand. */
  function written() {
    let controller: ReadableStreamDefaultController<unknown> | undefined;
    let cancelled = false;
    const body = new ReadableStream({
      start: (started) => {
        controller = started;
      },
      cancel: () => {
        cancelled = true;
      },
    });
    return {
      body: body as ReadableStream<Uint8Array>,
      controller: controller!,
      cancelled: () => cancelled,
    };
  }

  test("further arguments are passed on", async () => {
    const { handle } = guarded((_, context) => Response.json(context));
    const answer = await handle(request(), { params: { id: "7" } });
    expect(await answer.json()).toEqual({ params: { id: "7" } });
  });

  test("the handler can read its request in every way, after it was fingerprinted", async () => {
    const { handle } = guarded(async (given) => Response.json(await given.json()));
    for (const [key, body] of [
      ["a", '{"a":1}'],
      ["b", new Blob(['{"a":', "1}"])],
      ["c", new Blob(['{"a":1}']).stream()],
    ] as const) {
      const init = { headers: { "idempotency-key": key }, body, duplex: "half" } as RequestInit;
      expect(await (await handle(request(init))).json()).toEqual({ a: 1 });
    }
  });

  test("a request body over the bound is refused before the rest is read", async () => {
    const { handle } = guarded(() => new Response(), {}, { maxBodyBytes: 10 });
    let pulls = 0;
    const endless = new ReadableStream({
      pull: (controller) => {
        pulls++;
        controller.enqueue(chunk("12345"));
      },
    });
    const answer = await handle(request({ body: endless, duplex: "half" } as RequestInit));
    expect(answer.status).toBe(413);
    expect(pulls).toBeLessThan(10);
  });

  test("a request body that breaks is 400, and nothing runs", async () => {
    const { handle, store } = guarded(() => new Response());
    const { body, controller } = written();
    const answer = handle(request({ body, duplex: "half" } as RequestInit));
    controller.enqueue(chunk("half"));
    controller.error(new Error("the client left"));
    expect(await codeOf(await answer)).toBe("body-incomplete");
    expect(store.calls.begin).toBe(0);
  });

  test("what is no response is the handler's failure, and is released", async () => {
    const locked = new Response("x");
    locked.body?.getReader();
    for (const bad of [undefined, null, "text", {}, Response.error(), locked]) {
      const { handle, idempotency } = guarded(() => bad as Response);
      await expect(handle(request())).rejects.toThrow(TypeError);
      expect((await idempotency.get({ key: "k" }))?.state).toBe("open");
    }
  });

  test("a body of strings is refused, at once and in the middle", async () => {
    const { handle, idempotency } = guarded(() => {
      const { body, controller } = written();
      controller.enqueue("text");
      return new Response(body);
    });
    await expect(handle(request())).rejects.toThrow(TypeError);
    expect((await idempotency.get({ key: "k" }))?.state).toBe("open");
    const { body, controller } = written();
    const late = guarded(() => new Response(body));
    const answer = await late.handle(request());
    const text = answer.text();
    controller.enqueue("text");
    await expect(text).rejects.toThrow(TypeError);
    expect((await late.idempotency.get({ key: "k" }))?.state).toBe("open");
  });

  test("a source that fails while nobody reads crashes nothing, and is released", async () => {
    const { body, controller } = written();
    const { handle, idempotency } = guarded(() => new Response(body));
    controller.enqueue(chunk("a"));
    const answer = await handle(request());
    controller.enqueue(chunk("b"));
    await new Promise((resolve) => setTimeout(resolve, 5));
    controller.error(new Error("the source broke"));
    await new Promise((resolve) => setTimeout(resolve, 5));
    await expect(answer.text()).rejects.toThrow("the source broke");
    expect((await idempotency.get({ key: "k" }))?.state).toBe("open");
  });

  for (const when of ["before it reads", "while it reads", "by its signal"]) {
    test(`a client that leaves ${when} finds the whole answer on retry`, async () => {
      const { body, controller, cancelled } = written();
      const { handle } = guarded(() => new Response(body));
      controller.enqueue(chunk("a"));
      const leaving = new AbortController();
      const answer = await handle(request({ signal: leaving.signal }));
      const reader = answer.body!.getReader();
      if (when === "while it reads") {
        await reader.read();
        const pending = reader.read();
        await reader.cancel();
        expect((await pending).done).toBe(true);
      } else if (when === "by its signal") {
        leaving.abort();
        await expect(reader.read()).rejects.toThrow();
      } else await reader.cancel();
      expect(cancelled()).toBe(false);
      expect(await codeOf(await handle(request()))).toBe("operation-in-progress");
      controller.enqueue(chunk("b"));
      controller.close();
      let replay = await handle(request());
      while (status(replay) === "in-progress") replay = await handle(request());
      expect(await replay.text()).toBe("ab");
    });
  }

  test("a client that leaves while the end is being recorded changes nothing", async () => {
    let confirm = () => {};
    const held = new Promise<void>((resolve) => {
      confirm = resolve;
    });
    const faults = [{ method: "settle", effect: "delay", until: held }] as const;
    const store = faultyStore(memoryStore(), faults);
    const { body, controller } = written();
    const { handle } = guarded(() => new Response(body), { store });
    const answer = await handle(request());
    const reader = answer.body!.getReader();
    controller.enqueue(chunk("a"));
    controller.close();
    await reader.read();
    await until(() => store.calls.settle === 1, "the end");
    await reader.cancel();
    confirm();
    let replay = await handle(request());
    while (status(replay) === "in-progress") replay = await handle(request());
    expect(await replay.text()).toBe("a");
    expect(store.calls.settle).toBe(1);
  });

  test("an endless stream without a client is cancelled after a lease, and held", async () => {
    const { body, controller, cancelled } = written();
    const { handle, idempotency } = guarded(() => new Response(body), {}, { lease: "30ms" });
    controller.enqueue(chunk("tick"));
    const answer = await handle(request());
    await answer.body!.cancel();
    await until(cancelled, "the cancellation");
    const state = async () => (await idempotency.get({ key: "k" }))?.state;
    while ((await state()) === "running") await new Promise((resolve) => setTimeout(resolve, 2));
    expect(await state()).toBe("held");
  });

  test("a body shorter than was declared is no result", async () => {
    const { body, controller } = written();
    const { handle, idempotency } = guarded(
      () => new Response(body, { headers: { "content-length": "10" } }),
    );
    const answer = await handle(request());
    controller.enqueue(chunk("half"));
    controller.close();
    await expect(answer.text()).rejects.toThrow();
    expect((await idempotency.get({ key: "k" }))?.state).toBe("held");
  });

  test("byte streams and reused buffers are stored as they were sent", async () => {
    const buffer = new Uint8Array(3);
    const { handle } = guarded(() => {
      let pulls = 0;
      const body = new ReadableStream<Uint8Array>({
        pull: (controller) => {
          buffer.fill(97 + pulls);
          if (pulls++ === 3) controller.close();
          else controller.enqueue(buffer.slice());
        },
      });
      return new Response(body);
    });
    expect(await (await handle(request())).text()).toBe("aaabbbccc");
    expect(await (await handle(request())).text()).toBe("aaabbbccc");
  });
});
