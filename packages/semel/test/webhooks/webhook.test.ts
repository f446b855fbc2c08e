// MSG-3 for every sender, with `Request` objects and over sockets: verified first, then run once.

import { createHmac } from "node:crypto";
import { afterEach, describe, expect, test, vi } from "vitest";
import {
  operationOf,
  SignatureInvalid,
  type WebhookOptions,
  webhook,
} from "../../src/webhooks/index.ts";
import { crash, deferred, type Fixture, fixture } from "../engine/fixture.ts";
import { listen } from "../frameworks/node-server.ts";
import {
  GITHUB_SECRET,
  githubSender,
  type Sender,
  type Signed,
  senders,
  standardSender,
  stripeSender,
} from "./senders.ts";

interface Endpoint {
  /** Numbers the runs of the handler. */
  runs: () => number;
  store: Fixture["store"];
  idempotency: Fixture["idempotency"];
  send(signed: Signed): Promise<Response>;
}

type Behaviour = (run: number) => { status: number; text: string };

const closing: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const close of closing.splice(0)) await close();
});

const ways: Record<
  string,
  (sender: Sender, behave: Behaviour, more?: Partial<WebhookOptions>) => Promise<Endpoint>
> = {
  async fetch(sender, behave, more) {
    const { store, idempotency } = fixture();
    let runs = 0;
    const hook = webhook(idempotency, { scope: "hook", verify: sender.verifier, ...more });
    const handler = hook.fetch(async (request, delivery) => {
      const { status, text } = behave(++runs);
      // The request can still be read, and says what the delivery says.
      expect(await request.json()).toEqual(delivery.json());
      expect(operationOf(request)?.key).toBe(delivery.id);
      return new Response(text, { status });
    });
    const send = ({ body, headers }: Signed) =>
      handler(new Request("http://localhost/hook", { method: "POST", body, headers }));
    return { runs: () => runs, store, idempotency, send };
  },

  async node(sender, behave, more) {
    const { store, idempotency } = fixture();
    let runs = 0;
    const reportError = () => {};
    const options = { scope: "hook", verify: sender.verifier, reportError, ...more };
    const served = await listen(
      webhook(idempotency, options).node(async (request, response, delivery) => {
        const { status, text } = behave(++runs);
        const chunks: Buffer[] = [];
        for await (const chunk of request) chunks.push(chunk);
        expect(Buffer.concat(chunks).equals(delivery.body)).toBe(true);
        expect(operationOf(request)?.key).toBe(delivery.id);
        response.writeHead(status).end(text);
      }),
    );
    closing.push(served.close);
    const send = ({ body, headers }: Signed) =>
      fetch(`http://127.0.0.1:${served.port}/hook`, { method: "POST", body, headers });
    return { runs: () => runs, store, idempotency, send };
  },
};

const cases = senders.flatMap((sender) =>
  Object.entries(ways).map(([way, open]) => ({ name: `${sender.name}, ${way}`, sender, open })),
);

const codeOf = async (answer: Response) => ((await answer.json()) as { code: string }).code;

const done: Behaviour = (run) => ({ status: 202, text: `run ${run}` });

describe.each(cases)("$name", ({ sender, open }) => {
  test("a repeated delivery, signed anew, gets the first answer", async () => {
    const endpoint = await open(sender, done);
    const first = await endpoint.send(sender.deliver("evt_1"));
    const later = new Date(Date.now() - 60_000);
    const second = await endpoint.send(sender.deliver("evt_1", {}, later));
    expect([first.status, await first.text()]).toEqual([202, "run 1"]);
    expect([second.status, await second.text()]).toEqual([202, "run 1"]);
    expect(second.headers.get("idempotent-replayed")).toBe("true");
    expect(endpoint.runs()).toBe(1);
  });

  test("the very same request again is a duplicate: a replay attack runs nothing", async () => {
    const endpoint = await open(sender, done);
    const signed = sender.deliver("evt_1");
    const answers = await Promise.all(Array.from({ length: 10 }, () => endpoint.send(signed)));
    expect(endpoint.runs()).toBe(1);
    // Those that came while the first one ran are told so, and are repeated by the sender.
    for (const { status } of answers) expect([202, 409]).toContain(status);
    expect((await endpoint.send(signed)).status).toBe(202);
    expect(endpoint.runs()).toBe(1);
  });

  test("another id is another delivery", async () => {
    const endpoint = await open(sender, done);
    await endpoint.send(sender.deliver("evt_1"));
    await endpoint.send(sender.deliver("evt_2"));
    expect(endpoint.runs()).toBe(2);
  });

  test("a changed body gets 401, reveals nothing, and the store is not asked", async () => {
    const endpoint = await open(sender, done);
    const known = await endpoint.send(sender.deliver("evt_1"));
    expect(known.status).toBe(202);
    const asked = endpoint.store.calls.total;
    const { body, headers } = sender.deliver("evt_1");
    const forged = [
      await endpoint.send({ body: body.replace('"', ' "'), headers }),
      await endpoint.send({ ...sender.deliver("evt_9"), headers: {} }),
    ];
    for (const answer of forged) {
      expect(answer.status).toBe(401);
      expect(await answer.json()).toEqual({ title: "Unauthorized", status: 401 });
      expect(answer.headers.get("idempotency-status")).toBeNull();
    }
    expect(endpoint.store.calls.total).toBe(asked);
    expect(endpoint.runs()).toBe(1);
  });

  test("after a 5xx the sender's next attempt runs again (SM-24)", async () => {
    const endpoint = await open(sender, (run) => ({
      status: run === 1 ? 500 : 200,
      text: `${run}`,
    }));
    const statuses: number[] = [];
    for (let i = 0; i < 3; i++)
      statuses.push((await endpoint.send(sender.deliver("evt_1"))).status);
    expect(statuses).toEqual([500, 200, 200]);
    expect(endpoint.runs()).toBe(2);
  });

  test("a part of the body that counts, and differs, is refused with 422", async () => {
    const endpoint = await open(sender, done, { fingerprint: { include: ["/amount"] } });
    const send = async (content: object) =>
      (await endpoint.send(sender.deliver("evt_1", content))).status;
    expect(await send({ amount: 1, pending_webhooks: 2 })).toBe(202);
    expect(await send({ amount: 1, pending_webhooks: 1 })).toBe(202);
    expect(await send({ amount: 2, pending_webhooks: 1 })).toBe(422);
    expect(endpoint.runs()).toBe(1);
  });

  test("a body over the bound gets 413 before it is verified", async () => {
    const endpoint = await open(sender, done, { maxBodyBytes: 100 });
    const answer = await endpoint.send(sender.deliver("evt_1", { filler: "x".repeat(200) }));
    expect(answer.status).toBe(413);
    expect(endpoint.store.calls.total).toBe(0);
  });

  test("by default a part of the body that the sender rewrites does not count", async () => {
    const endpoint = await open(sender, done);
    await endpoint.send(sender.deliver("evt_1", { pending_webhooks: 2 }));
    const second = await endpoint.send(sender.deliver("evt_1", { pending_webhooks: 1 }));
    expect(await second.text()).toBe("run 1");
  });
});

/** Headers that are not a sender's, by what is wrong about them; the body is the sender's. */
const malformed: Record<string, (headers: Record<string, string>) => Record<string, string>> = {
  "no headers": () => ({}),
  "empty headers": (headers) => valued(headers, () => ""),
  nonsense: (headers) => valued(headers, () => "=;,=,v1,,t=,sha256=%00"),
  "long headers": (headers) => valued(headers, () => "v1=00,".repeat(300)),
  "bytes beyond ASCII": (headers) => valued(headers, (value) => `${value}\u00e9\u00ff`),
  "the signature of another delivery": (headers) => headers,
};

/** With other values for what a sender adds. */
function valued(
  headers: Record<string, string>,
  change: (value: string) => string,
): Record<string, string> {
  return Object.fromEntries(
    Object.entries(headers).map(([name, value]) =>
      name === "content-type" ? [name, value] : [name, change(value)],
    ),
  );
}

describe.each(cases)("$name, to whoever is not the sender", ({ sender, open }) => {
  test.each(Object.keys(malformed))("%s: 401, and the store is not asked", async (what) => {
    const reasons: unknown[] = [];
    const onRejected = (reason: unknown) => reasons.push(reason);
    const endpoint = await open(sender, done, { onRejected });
    const { body } = sender.deliver("evt_1");
    const { headers } = sender.deliver("evt_1", { amount: 1 });
    const answer = await endpoint.send({ body, headers: malformed[what]!(headers) });
    expect([answer.status, await answer.json()]).toEqual([
      401,
      { title: "Unauthorized", status: 401 },
    ]);
    expect(endpoint.store.calls.total).toBe(0);
    expect(endpoint.runs()).toBe(0);
    expect(reasons).toEqual([expect.any(SignatureInvalid)]);
  });
});

test.each([stripeSender, standardSender].map((sender) => ({ name: sender.name, sender })))(
  "$name: an old delivery gets 401, though it is signed and was never seen",
  async ({ sender }) => {
    for (const [way, open] of Object.entries(ways)) {
      const endpoint = await open(sender, done);
      const old = sender.deliver("evt_1", {}, new Date(Date.now() - 600_000));
      expect([way, (await endpoint.send(old)).status]).toEqual([way, 401]);
      expect(endpoint.store.calls.total).toBe(0);
    }
  },
);

describe.each(Object.entries(ways))("%s", (_, open) => {
  test("a handler that throws is called again by the next attempt", async () => {
    const endpoint = await open(stripeSender, (run) => {
      if (run === 1) throw new Error("the database is away");
      return { status: 200, text: "" };
    });
    // A fetch handler leaves the answer to whatever calls it, a listener gives it.
    const first = await endpoint.send(stripeSender.deliver("evt_1")).then(
      ({ status }) => status,
      ({ message }) => message,
    );
    expect(["the database is away", 500]).toContain(first);
    expect((await endpoint.send(stripeSender.deliver("evt_1"))).status).toBe(200);
    expect((await endpoint.send(stripeSender.deliver("evt_1"))).status).toBe(200);
    expect(endpoint.runs()).toBe(2);
  });

  test("a verified delivery without an id runs nothing and gets 400", async () => {
    const endpoint = await open(githubSender, done);
    const { body, headers } = githubSender.deliver("ignored");
    delete headers["x-github-delivery"];
    const answer = await endpoint.send({ body, headers });
    expect([answer.status, await codeOf(answer)]).toEqual([400, "key-missing"]);
    expect(endpoint.store.calls.total).toBe(0);
  });

  test("`id` finds the id elsewhere, and hears of verified deliveries only", async () => {
    const id = vi.fn((delivery: { json(): unknown }) => {
      return (delivery.json() as { order: string }).order;
    });
    const endpoint = await open(githubSender, done, { id });
    await endpoint.send(githubSender.deliver("guid-1", { order: "o-1" }));
    const again = await endpoint.send(githubSender.deliver("guid-2", { order: "o-1" }));
    expect(await again.text()).toBe("run 1");
    await endpoint.send({ ...githubSender.deliver("guid-3", { order: "o-2" }), headers: {} });
    expect(id).toHaveBeenCalledTimes(2);
  });

  test("while the process shuts down nothing runs, and the sender is asked to come again", async () => {
    const endpoint = await open(stripeSender, done);
    await endpoint.idempotency.close();
    const answer = await endpoint.send(stripeSender.deliver("evt_1"));
    expect(answer.status).toBe(503);
    expect(answer.headers.get("retry-after")).toBe("1");
    expect(endpoint.runs()).toBe(0);
  });

  test("why a delivery was refused is told to the operator alone", async () => {
    const reasons: string[] = [];
    const onRejected = (reason: unknown) => reasons.push(String(reason));
    const endpoint = await open(stripeSender, done, { onRejected });
    const old = stripeSender.deliver("evt_1", {}, new Date(Date.now() - 600_000));
    expect((await endpoint.send(old)).status).toBe(401);
    const { body } = stripeSender.deliver("evt_1");
    await endpoint.send({ body, headers: {} });
    expect(reasons).toEqual([
      expect.stringContaining("older than `tolerance`"),
      expect.stringContaining("`stripe-signature` is missing"),
    ]);
  });
});

test("a signed body that is no text, or no JSON, is delivered as it came, once", async () => {
  const bytes = Buffer.from([0xff, 0xfe, 0x00, 0x7b, 0xc3, 0x28]);
  for (const [body, failure] of [
    [bytes, TypeError],
    [Buffer.from("not JSON"), SyntaxError],
    [Buffer.alloc(0), SyntaxError],
  ] as const) {
    const { idempotency } = fixture();
    const seen: Buffer[] = [];
    const hook = webhook(idempotency, {
      scope: "hook",
      verify: githubSender.verifier,
      // What cannot be read has none of the parts that count.
      fingerprint: { include: ["/amount"] },
    });
    const handler = hook.fetch((_request, delivery) => {
      seen.push(Buffer.from(delivery.body));
      expect(() => delivery.json()).toThrow(failure);
      return new Response(null, { status: 204 });
    });
    const signature = createHmac("sha256", GITHUB_SECRET).update(body).digest("hex");
    const send = () =>
      handler(
        new Request("http://localhost/hook", {
          method: "POST",
          body,
          headers: { "x-hub-signature-256": `sha256=${signature}`, "x-github-delivery": "guid" },
        }),
      );
    expect([(await send()).status, (await send()).status]).toEqual([204, 204]);
    expect(seen).toEqual([body]);
  }
});

test("an `id` that cannot read a signed body runs nothing, and whoever serves hears of it", async () => {
  const id = (delivery: { json(): unknown }) => (delivery.json() as { order: string }).order;
  const { idempotency, store } = fixture();
  const handler = webhook(idempotency, { scope: "hook", verify: githubSender.verifier, id }).fetch(
    () => new Response("ran"),
  );
  const send = (body: string) => {
    const signature = createHmac("sha256", GITHUB_SECRET).update(body).digest("hex");
    const headers = { "x-hub-signature-256": `sha256=${signature}` };
    return handler(new Request("http://localhost/hook", { method: "POST", body, headers }));
  };
  await expect(send("{ half")).rejects.toThrow(SyntaxError);
  for (const order of [7, null, "", { $gt: "" }, "x".repeat(256)]) {
    const answer = await send(JSON.stringify({ order }));
    expect([answer.status, await codeOf(answer)]).toEqual([400, "key-invalid"]);
  }
  const nameless = await send("{}");
  expect([nameless.status, await codeOf(nameless)]).toEqual([400, "key-missing"]);
  expect(store.calls.total).toBe(0);
});

test("two endpoints of one application each run the event that they share", async () => {
  const idempotency = fixture().idempotency;
  const runs: string[] = [];
  const [one, two] = ["payments", "mails"].map((scope) =>
    webhook(idempotency, { scope, verify: stripeSender.verifier }).fetch(() => {
      runs.push(scope);
      return new Response(null, { status: 204 });
    }),
  );
  const request = () => {
    const { body, headers } = stripeSender.deliver("evt_1");
    return new Request("http://localhost/hook", { method: "POST", body, headers });
  };
  expect((await one!(request())).status).toBe(204);
  expect((await two!(request())).status).toBe(204);
  expect((await one!(request())).status).toBe(204);
  expect(runs).toEqual(["payments", "mails"]);
});

test("methods other than POST get 405", async () => {
  const hook = webhook(fixture().idempotency, { scope: "hook", verify: stripeSender.verifier });
  const answer = await hook.fetch(() => new Response())(new Request("http://localhost/hook"));
  expect([answer.status, answer.headers.get("allow")]).toEqual([405, "POST"]);
});

test("further arguments of a fetch handler are passed on", async () => {
  const hook = webhook(fixture().idempotency, { scope: "hook", verify: stripeSender.verifier });
  const handler = hook.fetch((_request, delivery, context: { team: string }) =>
    Response.json({ id: delivery.id, team: context.team }),
  );
  const { body, headers } = stripeSender.deliver("evt_1");
  const request = new Request("http://localhost/hook", { method: "POST", body, headers });
  expect(await (await handler(request, { team: "blue" })).json()).toEqual({
    id: "evt_1",
    team: "blue",
  });
});

test("an attempt whose process died is held, until somebody resolves it", async () => {
  const { idempotency, clock, another } = fixture();
  const options = { scope: "hook", verify: stripeSender.verifier };
  const request = () => {
    const { body, headers } = stripeSender.deliver("evt_1");
    return new Request("http://localhost/hook", { method: "POST", body, headers });
  };
  const running = deferred();
  const dying = webhook(idempotency, options).fetch(() => {
    running.resolve();
    return new Promise<Response>(() => {});
  });
  void dying(request());
  await running.promise;
  await crash({ idempotency, clock });
  await clock.advance(31_000);
  const next = webhook(another(), options).fetch(() => new Response("again"));
  const answer = await next(request());
  expect([answer.status, await codeOf(answer)]).toEqual([409, "outcome-unknown"]);
  await another().resolve({ key: "evt_1", scope: "hook" }, { outcome: "not-applied" });
  expect(await (await next(request())).text()).toBe("again");
});
