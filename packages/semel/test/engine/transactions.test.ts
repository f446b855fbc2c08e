// Claim, the handler's writes and the result in one transaction, on every database that has them.

import { afterAll, afterEach, beforeEach, describe, expect, test } from "vitest";
import { seal } from "../../src/engine/envelope.ts";
import {
  Idempotency,
  type IdempotencyOptions,
  type RunRequest,
} from "../../src/engine/idempotency.ts";
import { NotApplied } from "../../src/errors.ts";
import { httpResult } from "../../src/http/response.ts";
import { recordId } from "../../src/key.ts";
import { memoryStore } from "../../src/stores/memory.ts";
import { deferred, failure } from "./fixture.ts";
import { backends, type Client, closeServers, type Stage } from "./transaction-backends.ts";

afterAll(closeServers);

test("EN-5: a store without transactions says so", async () => {
  const idempotency = new Idempotency({ store: memoryStore(), sweep: false });
  const error = await failure(idempotency.transaction({ key: "k" }, () => 1));
  expect(error).toMatchObject({
    code: "option-invalid",
    message: expect.stringContaining("memory store has no transactions"),
  });
});

describe.each(backends)("transaction() on $name", ({ reason, open }) => {
  let stage: Stage;
  let clients: Client[];
  let client: Client;
  let idempotency: Idempotency;

  beforeEach(async (context) => {
    context.skip(reason !== undefined, reason);
    stage = await open();
    clients = [];
    client = await connect();
    idempotency = engine(client);
  });

  afterEach(async () => {
    await Promise.all(clients.map(({ end }) => end()));
    await stage.close();
  });

  async function connect(options: { connections?: number } = {}): Promise<Client> {
    const connected = await stage.connect(options);
    clients.push(connected);
    return connected;
  }

  /** A process of its own, as far as the engine can tell. */
  function engine({ store }: Client, options: Partial<IdempotencyOptions> = {}): Idempotency {
    return new Idempotency({ store, sweep: false, ...options });
  }

  const stateOf = (key: string) => idempotency.status({ key }).then(({ state }) => state);

  /** A handler that writes one order. */
  const order =
    (sku: string, by = client) =>
    async (transaction: unknown) => {
      await by.insert(transaction, sku);
      return { sku };
    };

  test("commits the claim, the handler's writes and the result together", async () => {
    const outcome = await idempotency.transaction({ key: "k", payload: 1 }, order("a"));
    expect(outcome).toEqual({ value: { sku: "a" }, replayed: false, attempt: 1 });
    expect(await stage.skus()).toEqual(["a"]);
    const record = await idempotency.get({ key: "k" });
    expect(record).toMatchObject({ state: "completed", attempt: 1, value: { sku: "a" } });
  });

  test("replays to a duplicate in this process, and in another", async () => {
    await idempotency.transaction({ key: "k" }, order("a"));
    const other = await connect();
    for (const one of [idempotency, engine(client), engine(other)]) {
      const outcome = await one.transaction({ key: "k" }, order("b", other));
      expect(outcome).toEqual({ value: { sku: "a" }, replayed: true, attempt: 1 });
    }
    expect(await stage.skus()).toEqual(["a"]);
  });

  test("run() replays what transaction() completed, and the other way round", async () => {
    await idempotency.transaction({ key: "one" }, order("a"));
    const later = engine(client);
    expect(await later.run({ key: "one" }, () => 0)).toMatchObject({ value: { sku: "a" } });
    await later.run({ key: "two" }, () => "ran");
    const replayed = await idempotency.transaction({ key: "two" }, order("b"));
    expect(replayed).toEqual({ value: "ran", replayed: true, attempt: 1 });
    expect(await stage.skus()).toEqual(["a"]);
  });

  test("nobody sees the record or the writes before the commit", async () => {
    const [entered, gate] = [deferred(), deferred()];
    const running = idempotency.transaction({ key: "k" }, async (transaction) => {
      await client.insert(transaction, "a");
      entered.resolve();
      await gate.promise;
    });
    await entered.promise;
    expect(await stage.skus()).toEqual([]);
    expect(await idempotency.get({ key: "k" })).toBeUndefined();
    gate.resolve();
    await running;
    expect(await stage.skus()).toEqual(["a"]);
  });

  test("a handler that throws leaves nothing, and the next duplicate runs", async () => {
    const boom = new Error("boom");
    const failed = idempotency.transaction({ key: "k" }, async (transaction) => {
      await client.insert(transaction, "a");
      throw boom;
    });
    expect(await failure(failed)).toBe(boom);
    expect(await stage.skus()).toEqual([]);
    expect(await idempotency.get({ key: "k" })).toBeUndefined();
    expect(await idempotency.transaction({ key: "k" }, order("b"))).toMatchObject({ attempt: 1 });
    expect(await stage.skus()).toEqual(["b"]);
  });

  test("SM-24: onError `store` rolls the writes back and keeps the failure", async () => {
    const request = { key: "k", onError: "store" } as const;
    const failed = idempotency.transaction(request, async (transaction) => {
      await client.insert(transaction, "a");
      throw new RangeError("no stock");
    });
    expect(await failure(failed)).toBeInstanceOf(RangeError);
    expect(await stage.skus()).toEqual([]);
    for (const one of [idempotency, engine(client)]) {
      expect(await failure(one.transaction(request, order("b")))).toMatchObject({
        code: "operation-failed",
        cause: { name: "RangeError", message: "no stock" },
      });
    }
    expect(await stage.skus()).toEqual([]);
  });

  test("SM-24: NotApplied is never kept, and onError `hold` does not hold what rolled back", async () => {
    for (const onError of ["store", "hold"] as const) {
      const request = { key: onError, onError };
      const failed = idempotency.transaction(request, () => {
        throw onError === "store" ? new NotApplied() : new Error("boom");
      });
      await failure(failed);
      expect(await idempotency.transaction(request, order(onError))).toMatchObject({
        replayed: false,
      });
    }
  });

  test("EN-2: a value that cannot be stored rolls back, and the operation is not held", async () => {
    const failed = idempotency.transaction({ key: "k" }, async (transaction) => {
      await client.insert(transaction, "a");
      return () => {};
    });
    expect(await failure(failed)).toMatchObject({
      code: "not-serializable",
      message: expect.stringContaining("nothing was committed"),
    });
    expect(await stage.skus()).toEqual([]);
    expect(await idempotency.get({ key: "k" })).toBeUndefined();
  });

  test("ST-10: a result above maxResultBytes completes without it, and never runs again", async () => {
    const small = engine(client, { maxResultBytes: 100 });
    const value = "x".repeat(101);
    const outcome = await small.transaction({ key: "k" }, async (transaction) => {
      await client.insert(transaction, "a");
      return value;
    });
    expect(outcome.value).toBe(value);
    for (const one of [small, engine(client)]) {
      const error = await failure(one.transaction({ key: "k" }, order("b")));
      expect(error).toMatchObject({ code: "result-not-stored" });
    }
    expect(await stage.skus()).toEqual(["a"]);
  });

  test("a large result comes back as it was", async () => {
    const value = new Uint8Array(200_000).map((_, index) => (index * 31) % 251);
    await idempotency.transaction({ key: "k" }, () => value);
    const { value: replayed } = await engine(client).transaction({ key: "k" }, () => value);
    expect(Buffer.compare(replayed, value)).toBe(0);
  });

  test("SM-2: another payload under the key is refused, and the handler does not run", async () => {
    await idempotency.transaction({ key: "k", payload: 1 }, order("a"));
    for (const one of [idempotency, engine(client)]) {
      const error = await failure(one.transaction({ key: "k", payload: 2 }, order("b")));
      expect(error).toMatchObject({ code: "key-reused" });
    }
    expect(await stage.skus()).toEqual(["a"]);
  });

  test("SM-3: a record under a live lease is busy; completed meanwhile, it is waited for", async () => {
    const gate = deferred<string>();
    const running = idempotency.run({ key: "k" }, () => gate.promise);
    await expect.poll(() => stateOf("k")).toBe("running");
    const other = engine(client);
    const error = await failure(other.transaction({ key: "k" }, order("b")));
    expect(error).toMatchObject({ code: "operation-in-progress" });
    const waiting = other.transaction({ key: "k", wait: "20s" }, order("b"));
    gate.resolve("first");
    expect(await waiting).toMatchObject({ value: "first", replayed: true });
    expect(await running).toMatchObject({ value: "first", replayed: false });
    expect(await stage.skus()).toEqual([]);
  });

  test("SM-6: an open record runs again, as its next attempt", async () => {
    await failure(
      idempotency.run({ key: "k" }, () => {
        throw new Error("boom");
      }),
    );
    expect(await stateOf("k")).toBe("open");
    expect(await idempotency.transaction({ key: "k" }, order("a"))).toMatchObject({ attempt: 2 });
    expect(await idempotency.get({ key: "k" })).toMatchObject({ state: "completed", attempt: 2 });
    expect(await stage.skus()).toEqual(["a"]);
  });

  /** An operation whose process dies while its handler runs. */
  async function crashed(request: RunRequest): Promise<void> {
    const [crashing, entered] = [engine(client), deferred()];
    void crashing.run(request, () => {
      entered.resolve();
      return new Promise(() => {});
    });
    await entered.promise;
    await crashing.close({ deadline: 0 });
  }

  test("SM-4: a lapsed lease is taken over under `rerun`, and counts as held under `hold`", async () => {
    for (const onCrash of ["rerun", "hold"] as const) await crashed({ key: onCrash, onCrash });
    await stage.elapse(60_000);
    const rerun = await idempotency.transaction({ key: "rerun" }, order("a"));
    expect(rerun).toMatchObject({ replayed: false, attempt: 2 });
    const error = await failure(idempotency.transaction({ key: "hold" }, order("b")));
    expect(error).toMatchObject({ code: "outcome-unknown" });
    expect(await stage.skus()).toEqual(["a"]);
    expect(await idempotency.resolve({ key: "hold" }, { outcome: "not-applied" })).toEqual({
      kind: "resolved",
    });
    await idempotency.transaction({ key: "hold" }, order("b"));
    expect(await stage.skus()).toEqual(["a", "b"]);
  });

  test("SM-23a: a record whose attempts are exhausted is not taken over", async () => {
    const request = { key: "k", onCrash: "rerun", attemptsMax: 1 } as const;
    await crashed(request);
    await stage.elapse(60_000);
    const error = await failure(idempotency.transaction(request, order("a")));
    expect(error).toMatchObject({ code: "outcome-unknown", reason: "attempts-exhausted" });
    expect(await stage.skus()).toEqual([]);
  });

  test("SM-7: a held and a void record are refused", async () => {
    const held = idempotency.run({ key: "held", onError: "hold" }, () => {
      throw new Error("boom");
    });
    await failure(held);
    await idempotency.void({ key: "void" });
    const codes = [];
    for (const key of ["held", "void"]) {
      codes.push(await failure(idempotency.transaction({ key }, order("a"))));
    }
    expect(codes).toMatchObject([{ code: "outcome-unknown" }, { code: "operation-void" }]);
    expect(await stage.skus()).toEqual([]);
  });

  test("SM-15: an expired record is as none", async () => {
    await idempotency.transaction({ key: "k", retention: "1h" }, order("a"));
    await stage.elapse(3_700_000);
    const later = engine(client);
    expect(await later.transaction({ key: "k" }, order("b"))).toMatchObject({ replayed: false });
    expect(await stage.skus()).toEqual(["a", "b"]);
    expect(await later.get({ key: "k" })).toMatchObject({ attempt: 1, value: { sku: "b" } });
  });

  test("EN-11: a request that is too late does not run; one in time does", async () => {
    const request = { key: "k", retention: "1h", refuseLate: { skew: "5m" } } as const;
    const firstSentAt = new Date(Date.now() - 2 * 3_600_000);
    const late = idempotency.transaction({ ...request, firstSentAt }, order("a"));
    expect(await failure(late)).toMatchObject({ code: "key-expired" });
    expect(await stage.skus()).toEqual([]);
    const inTime = { ...request, firstSentAt: new Date() };
    expect(await idempotency.transaction(inTime, order("a"))).toMatchObject({ replayed: false });
    const again = engine(client).transaction({ ...request, firstSentAt }, order("b"));
    expect(await again).toMatchObject({ value: { sku: "a" }, replayed: true });
    expect(await stage.skus()).toEqual(["a"]);
  });

  test("EN-3: duplicates in this process wait for the first and share its result", async () => {
    const gate = deferred();
    let runs = 0;
    const ask = () =>
      idempotency.transaction({ key: "k", wait: "20s" }, async (transaction) => {
        runs++;
        await client.insert(transaction, "a");
        await gate.promise;
        return runs;
      });
    const asked = Array.from({ length: 20 }, ask);
    await expect.poll(() => runs).toBe(1);
    const impatient = await failure(idempotency.transaction({ key: "k" }, order("b")));
    expect(impatient).toMatchObject({ code: "operation-in-progress" });
    gate.resolve();
    const outcomes = await Promise.all(asked);
    expect(outcomes.map(({ value }) => value)).toEqual(Array.from({ length: 20 }, () => 1));
    expect(outcomes.filter(({ replayed }) => !replayed)).toHaveLength(1);
    expect(await stage.skus()).toEqual(["a"]);
  });

  test("EN-3: after a failure, one of those who waited runs", async () => {
    let runs = 0;
    const ask = () =>
      idempotency.transaction({ key: "k", wait: "20s" }, async (transaction) => {
        runs++;
        await client.insert(transaction, `run ${runs}`);
        if (runs === 1) throw new Error("boom");
        return runs;
      });
    const outcomes = await Promise.allSettled(Array.from({ length: 10 }, ask));
    expect(outcomes.filter(({ status }) => status === "rejected")).toHaveLength(1);
    expect(runs).toBe(2);
    expect(await stage.skus()).toEqual(["run 2"]);
  });

  test("of many processes with one key, one commits and all get its value", async () => {
    const processes = await Promise.all(Array.from({ length: 6 }, () => connect()));
    const outcomes = await Promise.all(
      processes.map((each, index) =>
        engine(each).transaction({ key: "k", wait: "20s" }, order(`by ${index}`, each)),
      ),
    );
    const skus = await stage.skus();
    expect(skus).toHaveLength(1);
    expect(new Set(outcomes.map(({ value }) => value.sku))).toEqual(new Set(skus));
    expect(outcomes.filter(({ replayed }) => !replayed)).toHaveLength(1);
  });

  test("run() and transaction() racing for a key have one effect", async () => {
    const processes = await Promise.all(Array.from({ length: 4 }, () => connect()));
    let runs = 0;
    const asked = processes.map((each, index) => {
      const one = engine(each, { lease: "60s" });
      const request = { key: "k", wait: "20s" } as const;
      if (index % 2 === 0) return one.transaction(request, order(`by ${index}`, each));
      return one.run(request, () => {
        runs++;
        return { sku: `by ${index}` };
      });
    });
    const outcomes = await Promise.all(asked);
    expect(new Set(outcomes.map(({ value }) => value.sku)).size).toBe(1);
    expect((await stage.skus()).length + runs).toBe(1);
  });

  test("a transaction() in the handler of another is refused instead of waiting for itself", async () => {
    const nested = idempotency.transaction({ key: "outer" }, () =>
      idempotency.transaction({ key: "inner" }, order("a")),
    );
    expect(await failure(nested)).toMatchObject({
      code: "option-invalid",
      message: expect.stringContaining("within()"),
    });
    expect(await idempotency.transaction({ key: "after" }, order("b"))).toMatchObject({
      replayed: false,
    });
  });

  test("within() in the handler of transaction() is part of it", async () => {
    const run = (isGood: boolean) =>
      idempotency.transaction({ key: "outer" }, async (transaction) => {
        const inner = await idempotency.within(client.executor(transaction), { key: "inner" }, () =>
          order("a")(transaction),
        );
        if (!isGood) throw new Error("boom");
        return inner.value;
      });
    await failure(run(false));
    expect(await idempotency.get({ key: "inner" })).toBeUndefined();
    expect(await run(true)).toMatchObject({ value: { sku: "a" } });
    expect(await idempotency.get({ key: "inner" })).toMatchObject({ state: "completed" });
    expect(await stage.skus()).toEqual(["a"]);
  });

  test("within() replays in the very transaction, and caches nothing of what rolls back", async () => {
    const failed = idempotency.transaction({ key: "outer" }, async (transaction) => {
      const executor = client.executor(transaction);
      const ask = () => idempotency.within(executor, { key: "k" }, () => order("a")(transaction));
      expect(await ask()).toMatchObject({ replayed: false });
      expect(await ask()).toMatchObject({ value: { sku: "a" }, replayed: true });
      throw new Error("boom");
    });
    expect(await failure(failed)).toMatchObject({ message: "boom" });
    const outcome = await idempotency.transaction({ key: "k" }, order("b"));
    expect(outcome).toMatchObject({ value: { sku: "b" }, replayed: false });
  });

  test("a result of another kind, as somebody resolved it, is not mistaken for another operation's", async () => {
    const request = { key: "k", onError: "hold" } as const;
    await failure(idempotency.run(request, () => Promise.reject(new Error("broken"))));
    const response = await seal(httpResult({ status: 201 }));
    const resolution = { id: recordId("", "k"), retentionMs: 60_000, result: response } as const;
    const resolved = await client.store.resolve({ ...resolution, kind: "complete" });
    expect(resolved).toEqual({ kind: "resolved" });
    const joined = () =>
      client.store.transactions.run((transaction) =>
        idempotency.within(client.executor(transaction), { key: "k" }, order("a")),
      );
    const refusal = { code: "result-not-stored", retry: "never" };
    expect(await failure(joined())).toMatchObject(refusal);
    expect(await failure(idempotency.transaction({ key: "k" }, order("b")))).toMatchObject(refusal);
    expect(await stage.skus()).toEqual([]);
  });

  test("within() refuses another payload, a held, a void and a late key", async () => {
    await idempotency.run({ key: "done", payload: 1 }, () => 1);
    await failure(
      idempotency.run({ key: "held", onError: "hold" }, () => {
        throw new Error("boom");
      }),
    );
    await idempotency.void({ key: "void" });
    const requests = [
      { key: "done", payload: 2 },
      { key: "held" },
      { key: "void" },
      { key: "late", retention: "1h", refuseLate: true, firstSentAt: Date.now() - 7_200_000 },
    ] as const;
    const codes: unknown[] = [];
    await idempotency.transaction({ key: "outer" }, async (transaction) => {
      for (const request of requests) {
        const refused = idempotency.within(client.executor(transaction), request, () => 1);
        codes.push(((await failure(refused)) as { code: string }).code);
      }
    });
    expect(codes).toEqual(["key-reused", "outcome-unknown", "operation-void", "key-expired"]);
  });

  test("within(): should the caller commit after an error all the same, the key may run again", async () => {
    await idempotency.transaction({ key: "outer" }, async (transaction) => {
      const executor = client.executor(transaction);
      const failed = idempotency.within(executor, { key: "k" }, () => {
        throw new Error("boom");
      });
      await failure(failed);
    });
    expect(await stateOf("k")).toBe("open");
    expect(await idempotency.transaction({ key: "k" }, order("a"))).toMatchObject({ attempt: 2 });
  });

  test("with 2 connections and handlers that use the pool, 50 keys and 200 duplicates all finish", async () => {
    const small = await connect({ connections: 2 });
    const one = engine(small);
    const ask = (mode: "run" | "transaction", index: number) => {
      const request = { key: `${mode} ${index % 50}`, wait: "60s" } as const;
      const sku = request.key;
      if (mode === "transaction") {
        return one.transaction(request, async (transaction) => {
          await small.insert(transaction, sku);
          await small.ping();
          return sku;
        });
      }
      return one.run(request, async () => {
        await small.ping();
        return sku;
      });
    };
    const modes = ["run", "transaction"] as const;
    const outcomes = await Promise.all(
      modes.flatMap((mode) => Array.from({ length: 250 }, (_, index) => ask(mode, index))),
    );
    expect(outcomes.filter(({ replayed }) => !replayed)).toHaveLength(100);
    expect(await stage.skus()).toHaveLength(50);
    expect(new Set(await stage.skus()).size).toBe(50);
  });

  test("a request that was aborted before its turn runs nothing", async () => {
    const signal = AbortSignal.abort(new Error("gone"));
    const error = await failure(idempotency.transaction({ key: "k", signal }, order("a")));
    expect(error).toMatchObject({ message: "gone" });
    expect(await stage.skus()).toEqual([]);
  });

  test("SM-23: a caller that goes away while the handler runs does not undo it", async () => {
    const [controller, entered, gate] = [new AbortController(), deferred(), deferred()];
    const asked = idempotency.transaction(
      { key: "k", signal: controller.signal },
      async (transaction) => {
        entered.resolve();
        await gate.promise;
        return order("a")(transaction);
      },
    );
    await entered.promise;
    controller.abort(new Error("gone"));
    expect(await failure(asked)).toMatchObject({ message: "gone" });
    gate.resolve();
    expect(await idempotency.close()).toBe(0);
    expect(await stage.skus()).toEqual(["a"]);
  });
});
