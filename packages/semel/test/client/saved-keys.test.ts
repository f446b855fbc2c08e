// Keys that outlive the page or the process (CL-3): saved before the first byte, agreed on by all who
// share the storage, kept until the operation is settled or forgotten by the server.

import { describe, expect, test } from "vitest";
import {
  type ClientOptions,
  createClient,
  type KeyLocks,
  type KeyStorage,
  OperationExpired,
  OperationNameReused,
} from "../../src/client/index.ts";
import { type ManualClock, manualClock } from "../../src/testing/manual-clock.ts";
import { FAST, gate, paymentService, rawServer, recorder } from "./fixture.ts";

const DAY_MS = 86_400_000;
const NAME = "semel:cart-42";
const POST = {
  method: "POST",
  body: "amount=1200",
  idempotency: { operation: "cart-42" },
} as const;

/** What `localStorage` is, with its items in sight. */
function itemStorage() {
  const items = new Map<string, string>();
  return {
    items,
    getItem: (name: string) => items.get(name) ?? null,
    setItem: (name: string, value: string) => void items.set(name, value),
    removeItem: (name: string) => void items.delete(name),
  };
}

/** A lock as `navigator.locks` is one. */
function queueLocks(): KeyLocks {
  let last: Promise<unknown> = Promise.resolve();
  return {
    request: (_name, work) => {
      const turn = last.then(work);
      last = turn.catch(() => {});
      return turn;
    },
  };
}

/** A page, or a run of a job: a client of its own over a storage that stays. */
function pageOver(storage: KeyStorage, options: ClientOptions = {}) {
  return createClient({ storage, locks: queueLocks(), retry: FAST, ...options });
}

/** Moves time on for as long as something takes. */
async function moveUntil(clock: ManualClock, work: Promise<unknown>): Promise<void> {
  let isDone = false;
  const ended = work.finally(() => {
    isDone = true;
  });
  while (!isDone) await clock.advance(1);
  await ended;
}

const keysOf = (service: { seen: { headers: NodeJS.Dict<string | string[]> }[] }) =>
  service.seen.map(({ headers }) => headers["idempotency-key"]);

describe("a reload or a restart", () => {
  test("reuses the key of an operation that got no answer, with the first time it was sent", async () => {
    const held = gate();
    const service = await paymentService({ beforeAnswer: () => held.opened });
    const storage = itemStorage();
    const controller = new AbortController();
    const before = pageOver(storage)(service.url, { ...POST, signal: controller.signal });
    await expect.poll(() => service.payments).toHaveLength(1);
    controller.abort(new Error("reloaded"));
    await expect(before).rejects.toThrow("reloaded");

    const page = pageOver(storage);
    expect(await page.saved("cart-42")).toMatchObject({ isAnswered: false });
    held.open();
    const response = await page(service.url, POST);
    expect(await response.json()).toEqual({ payment: 1, order: "amount=1200" });
    expect(service.payments).toHaveLength(1);
    expect(new Set(keysOf(service)).size).toBe(1);
    const dates = service.seen.map(({ headers }) => headers["repeatability-first-sent"]);
    expect(new Set(dates).size).toBe(1);
  });

  test("after the answer gets it again, until it is settled; then the name is free", async () => {
    const service = await paymentService();
    const storage = itemStorage();
    const first = await pageOver(storage)(service.url, POST);
    const page = pageOver(storage);
    const again = await page(service.url, POST);
    expect(again.headers.get("idempotent-replayed")).toBe("true");
    expect(await again.text()).toBe(await first.text());
    expect(await page.saved("cart-42")).toMatchObject({ isAnswered: true });
    await page.settle("cart-42");
    expect(await page.saved("cart-42")).toBeUndefined();
    expect(storage.items.size).toBe(0);
    await page(service.url, { ...POST, body: "amount=9" });
    expect(service.payments).toEqual(["amount=1200", "amount=9"]);
  });

  test("the key is saved before the first byte is sent", async () => {
    const storage = itemStorage();
    const savedWhenAsked: (string | undefined)[] = [];
    const service = await paymentService({
      front: () => {
        savedWhenAsked.push(storage.items.get(NAME));
        return false;
      },
    });
    await pageOver(storage)(service.url, POST);
    const saved = JSON.parse(savedWhenAsked[0]!);
    expect(`"${saved.key}"`).toBe(keysOf(service)[0]);
  });

  test("the storage may answer by promises", async () => {
    const service = await paymentService();
    const { items, ...sync } = itemStorage();
    const storage: KeyStorage = {
      getItem: async (name) => sync.getItem(name),
      setItem: async (name, value) => sync.setItem(name, value),
      removeItem: async (name) => sync.removeItem(name),
    };
    await pageOver(storage)(service.url, POST);
    await pageOver(storage)(service.url, POST);
    expect(service.payments).toHaveLength(1);
    await pageOver(storage).settle("cart-42");
    expect(items.size).toBe(0);
  });
});

describe("another request under the same name", () => {
  test.each([
    ["body", { body: "amount=1" }, ""],
    ["method", { method: "PATCH" }, ""],
    ["URL", {}, "?other"],
  ])("with another %s is refused, and nothing is sent", async (_part, change, query) => {
    const service = await paymentService();
    const storage = itemStorage();
    await pageOver(storage)(service.url, POST);
    const other = pageOver(storage)(`${service.url}${query}`, { ...POST, ...change });
    await expect(other).rejects.toBeInstanceOf(OperationNameReused);
    await expect(other).rejects.toMatchObject({
      code: "key-reused",
      operation: "cart-42",
      message: expect.stringContaining('settle("cart-42")'),
    });
    expect(service.seen).toHaveLength(1);
  });

  test("another name is another operation", async () => {
    const service = await paymentService();
    const client = pageOver(itemStorage());
    await client(service.url, POST);
    await client(service.url, { ...POST, idempotency: { operation: "cart-43" } });
    expect(service.payments).toHaveLength(2);
  });

  test("without a name a keyed request is refused; one that brings its key is not saved", async () => {
    const service = await paymentService();
    const storage = itemStorage();
    const client = pageOver(storage);
    const { idempotency: _, ...unnamed } = POST;
    await expect(client(service.url, unnamed)).rejects.toThrow(/needs a name for its operation/);
    expect(service.seen).toHaveLength(0);
    await client(service.url, { ...POST, idempotency: { key: "mine" } });
    await client(service.url);
    expect(storage.items.size).toBe(0);
  });
});

describe("time", () => {
  test("an answered operation is dropped when the server has forgotten it (`Idempotency-Expires`)", async () => {
    // By the server's clock, which is an hour ahead of this one.
    const served = new Date(Date.UTC(2025, 0, 1, 1)).toUTCString();
    const expires = new Date(Date.UTC(2025, 0, 1, 3)).toUTCString();
    const service = await paymentService({
      front: (_request, response) => {
        response.setHeader("date", served);
        response.setHeader("idempotency-status", "executed");
        response.setHeader("idempotency-expires", expires);
        response.writeHead(201).end();
        return true;
      },
    });
    const storage = itemStorage();
    const clock = manualClock(Date.UTC(2025, 0, 1));
    const client = pageOver(storage, { clock });
    await client(service.url, POST);
    await clock.advance(7_199_000);
    await client(service.url, POST);
    expect(new Set(keysOf(service)).size).toBe(1);
    await clock.advance(7_200_000);
    expect(await client.saved("cart-42")).toBeUndefined();
    await client(service.url, { ...POST, body: "another" });
    expect(new Set(keysOf(service)).size).toBe(2);
  });

  test("where the server does not say, after `retention`", async () => {
    const service = await paymentService({
      front: (_request, response) => {
        response.writeHead(201).end();
        return true;
      },
    });
    const clock = manualClock();
    const client = pageOver(itemStorage(), { clock, retention: "2h" });
    await client(service.url, POST);
    await clock.advance(7_199_000);
    expect(await client.saved("cart-42")).toMatchObject({ isAnswered: true });
    await clock.advance(1_000);
    expect(await client.saved("cart-42")).toBeUndefined();
  });

  test("an operation without an answer gets no new key by itself, however old it is", async () => {
    let isUp = false;
    const service = await paymentService({
      front: (request) => {
        if (!isUp) request.socket.destroy();
        return !isUp;
      },
    });
    const storage = itemStorage();
    const clock = manualClock();
    const client = pageOver(storage, { clock, retry: { attemptsMax: 1 } });
    await expect(client(service.url, POST)).rejects.toMatchObject({ code: "no-answer" });
    isUp = true;
    await clock.advance(DAY_MS + 1_000);
    const late = client(service.url, POST);
    await expect(late).rejects.toBeInstanceOf(OperationExpired);
    await expect(late).rejects.toMatchObject({ code: "key-expired", retry: "never" });
    expect(service.seen).toHaveLength(1);
    await client.settle("cart-42");
    expect((await client(service.url, POST)).status).toBe(201);
  });
});

describe("what the server says of the key", () => {
  function refusing(problem: { status: number; code: string; retry: string }) {
    return paymentService({
      front: (_request, response) => {
        response.writeHead(problem.status, { "content-type": "application/problem+json" });
        response.end(JSON.stringify(problem));
        return true;
      },
    });
  }

  test.each([
    { status: 412, code: "key-expired", retry: "never" },
    { status: 409, code: "outcome-unknown", retry: "never" },
    { status: 409, code: "operation-in-progress", retry: "same-key" },
    { status: 422, code: "key-reused", retry: "new-key" },
    { status: 503, code: "store-unavailable", retry: "same-key" },
  ])("$code: the key stays, and no new one is made", async (problem) => {
    const service = await refusing(problem);
    const storage = itemStorage();
    const retry = { ...FAST, attemptsMax: 2 };
    for (let calls = 0; calls < 2; calls++) {
      const response = await pageOver(storage, { retry })(service.url, POST);
      expect(response.status).toBe(problem.status);
    }
    expect(new Set(keysOf(service)).size).toBe(1);
    expect(await pageOver(storage).saved("cart-42")).toMatchObject({ isAnswered: false });
  });

  test.each([
    { status: 409, code: "operation-void", retry: "new-key" },
    { status: 400, code: "key-invalid", retry: "new-key" },
  ])("$code: the next request under the name gets a new key", async (problem) => {
    const service = await refusing(problem);
    const storage = itemStorage();
    await pageOver(storage)(service.url, POST);
    expect(storage.items.size).toBe(0);
    await pageOver(storage)(service.url, POST);
    expect(new Set(keysOf(service)).size).toBe(2);
  });

  test("401 keeps the key for after the login", async () => {
    let isLoggedIn = false;
    const service = await paymentService({
      front: (_request, response) => {
        if (!isLoggedIn) response.writeHead(401).end();
        return !isLoggedIn;
      },
    });
    const storage = itemStorage();
    expect((await pageOver(storage)(service.url, POST)).status).toBe(401);
    isLoggedIn = true;
    expect((await pageOver(storage)(service.url, POST)).status).toBe(201);
    expect(new Set(keysOf(service)).size).toBe(1);
  });
});

describe("several at once", () => {
  test("agree on one key by a lock", async () => {
    const service = await paymentService();
    const storage = itemStorage();
    const locks = queueLocks();
    const responses = await Promise.all(
      Array.from({ length: 10 }, () =>
        createClient({ storage, locks, retry: FAST })(service.url, POST),
      ),
    );
    const answers = await Promise.all(responses.map((response) => response.text()));
    expect(new Set(answers).size).toBe(1);
    expect(new Set(keysOf(service)).size).toBe(1);
    expect(service.payments).toHaveLength(1);
  });

  test("agree by a lock also where each does not see yet what the other has written", async () => {
    const service = await paymentService();
    const held = new Set<string>();
    const lines = new Map<string, Promise<unknown>>();
    const locks: KeyLocks = {
      request(name, work) {
        const turn = (lines.get(name) ?? Promise.resolve()).then(() => {
          held.add(name);
          return work().finally(() => held.delete(name));
        });
        lines.set(
          name,
          turn.catch(() => {}),
        );
        return turn;
      },
      query: async () => ({ held: [...held].map((name) => ({ name })) }),
    };
    // As tabs of a browser: of their own, for as long as it takes.
    const tabs = [itemStorage(), itemStorage(), itemStorage()];
    const pay = (storage: KeyStorage) =>
      createClient({ storage, locks, retry: FAST })(service.url, POST);
    const responses = await Promise.all(tabs.map(pay));
    expect(new Set(keysOf(service)).size).toBe(1);
    expect(service.payments).toHaveLength(1);
    expect(responses.map(({ status }) => status)).toEqual([201, 201, 201]);

    // One of them wrote it; the others know it all the same.
    const known = tabs.map((storage) => createClient({ storage, locks }).saved("cart-42"));
    const keys = (await Promise.all(known)).map((saved) => JSON.stringify(saved?.key));
    expect(new Set(keys)).toEqual(new Set(keysOf(service)));

    // What one has settled is not taken up again by another that has it still.
    await createClient({ storage: tabs[0]!, locks }).settle("cart-42");
    await pay(tabs[1]!);
    expect(service.payments).toHaveLength(2);
  });

  test("agree without one, by reading back, however their reads and writes interleave", async () => {
    // Every order of four steps of two writers, each step at a time of its own.
    for (const delays of [
      [1, 1],
      [1, 20],
      [20, 1],
      [5, 9],
      [9, 5],
      [30, 30],
    ] as const) {
      const service = await paymentService();
      const items = itemStorage();
      const clock = manualClock();
      const slow = (delayMs: number): KeyStorage => {
        const later = <T>(work: () => T) =>
          new Promise<T>((resolve) => clock.schedule(delayMs, () => resolve(work())));
        return {
          getItem: (name) => later(() => items.getItem(name)),
          setItem: (name, value) => later(() => items.setItem(name, value)),
          removeItem: (name) => later(() => items.removeItem(name)),
        };
      };
      const { events, onEvent } = recorder();
      const calls = [0, 7, 14].map((startMs, index) => {
        const storage = slow(delays[index % 2]!);
        const client = createClient({ storage, clock, onEvent, retry: FAST });
        const started = new Promise<void>((resolve) => clock.schedule(startMs, resolve));
        return started.then(() => client(service.url, POST));
      });
      await moveUntil(clock, Promise.all(calls));
      const keys = new Set(events.map(({ key }) => key));
      expect(keys.size, `delays ${delays.join(", ")}`).toBe(1);
      expect(service.payments).toHaveLength(1);
    }
  });

  test("one client called twice makes one payment", async () => {
    const service = await paymentService();
    const client = createClient({ storage: itemStorage(), retry: FAST });
    await Promise.all([client(service.url, POST), client(service.url, POST)]);
    expect(service.payments).toHaveLength(1);
  });

  test("what another has settled meanwhile is not written again", async () => {
    const held = gate();
    const service = await paymentService({ beforeAnswer: () => held.opened });
    const storage = itemStorage();
    const call = pageOver(storage)(service.url, POST);
    await expect.poll(() => service.payments).toHaveLength(1);
    await pageOver(storage).settle("cart-42");
    held.open();
    await call;
    expect(storage.items.size).toBe(0);
  });
});

describe("a storage that fails", () => {
  const failing = (method: keyof KeyStorage): KeyStorage => ({
    ...itemStorage(),
    [method]: () => {
      throw new Error("QuotaExceededError");
    },
  });

  test.each(["getItem", "setItem"] as const)("in %s: nothing is sent", async (method) => {
    const service = await paymentService();
    await expect(pageOver(failing(method))(service.url, POST)).rejects.toMatchObject({
      code: "store-unavailable",
      message: expect.stringContaining(method),
      cause: { message: "QuotaExceededError" },
    });
    expect(service.seen).toHaveLength(0);
  });

  test("after the answer: the answer comes, and an event tells", async () => {
    const service = await paymentService();
    const items = itemStorage();
    let writes = 0;
    const storage = {
      ...items,
      setItem: (name: string, value: string) => {
        if (++writes > 1) throw new Error("full");
        items.setItem(name, value);
      },
    };
    const { events, onEvent } = recorder();
    const response = await pageOver(storage, { onEvent })(service.url, POST);
    expect(response.status).toBe(201);
    expect(events.at(-1)).toMatchObject({
      type: "storage-failure",
      error: { cause: { message: "full" } },
    });
    expect((await pageOver(storage)(service.url, POST)).headers.get("idempotent-replayed")).toBe(
      "true",
    );
  });

  test("by not keeping what it is given: nothing is sent", async () => {
    const service = await paymentService();
    const clock = manualClock();
    const forgetful = { getItem: () => null, setItem: () => {}, removeItem: () => {} };
    const call = createClient({ storage: forgetful, clock })(service.url, POST);
    const refused = expect(call).rejects.toMatchObject({ code: "store-unavailable" });
    await moveUntil(clock, refused);
    expect(service.seen).toHaveLength(0);
  });

  test.each(["", "null", "{", '{"version":2}', '{"version":1,"key":"k"}'])(
    "by the damaged entry %j: nothing is sent until it is settled",
    async (text) => {
      const service = await paymentService();
      const storage = itemStorage();
      storage.items.set(NAME, text);
      const client = pageOver(storage);
      await expect(client(service.url, POST)).rejects.toMatchObject({ code: "record-unreadable" });
      expect(service.seen).toHaveLength(0);
      await client.settle("cart-42");
      expect((await client(service.url, POST)).status).toBe(201);
    },
  );
});

test("FormData cannot be known again, and is refused", async () => {
  const url = await rawServer((socket) => socket.destroy());
  const body = new FormData();
  await expect(pageOver(itemStorage())(url, { ...POST, body })).rejects.toThrow(/FormData/);
});
