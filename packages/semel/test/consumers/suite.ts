// What every adapter of a broker promises, tried on the broker itself: one suite, called from one short
// file each.

import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as delay } from "node:timers/promises";
import { describe, expect, test } from "vitest";
import type { Consumption } from "../../src/consumers/consumption.ts";
import type { DeliveryReport, MessageHandler } from "../../src/consumers/deliveries.ts";
import { Idempotency } from "../../src/engine/idempotency.ts";
import { createInbox, type Delivery, type Inbox } from "../../src/engine/inbox/inbox.ts";
import type { Store } from "../../src/store.ts";
import { memoryStore } from "../../src/stores/memory.ts";
import { sqliteStore } from "../../src/stores/sqlite.ts";
import { type OpenDatabase, sqliteDrivers } from "../sqlite-drivers.ts";
import { overriding } from "./overriding.ts";

/** What a consumer is told to do, with the bodies of messages. One of the first three is given. */
export interface Consume<Transaction> {
  handler?: ((body: string) => unknown) | undefined;
  transaction?: (transaction: Transaction, body: string) => unknown;
  batch?: ((bodies: readonly string[]) => unknown) | undefined;
  /** What the id stands for. */
  payload?: ((body: string) => unknown) | undefined;
  signal?: AbortSignal;
  onDelivery(delivery: Delivery, body: string, unsettled: unknown): void;
}

/** A consumer with a connection of its own. */
export interface Consumer {
  readonly consumption: Consumption;
  /** Cuts its connection for good. */
  cut(): Promise<void>;
  /** Stops consuming, and closes its connection. */
  close(): Promise<void>;
}

/** A queue of one test. */
export interface Topic {
  /** Where it is, for a consumer in another process. */
  readonly address: object;
  publish(id: string, body: string): Promise<void>;
  consume<Transaction>(inbox: Inbox<Transaction>, options: Consume<Transaction>): Promise<Consumer>;
  /** Bodies of the dead letters. */
  deadLetters(): Promise<string[]>;
  /** Messages that were not settled, once no consumer is left. */
  remaining(): Promise<number>;
  close(): Promise<void>;
}

export interface BrokerHarness {
  readonly name: string;
  /** What `consumer-process.mjs` calls it. @default the name */
  readonly kind?: string;
  /** Why there is nothing to test with. */
  readonly missing: string | undefined;
  /** Whether it redelivers what is handled for too long without a heartbeat. */
  readonly redeliverAfterMs: number | undefined;
  /** Whether the consumer is the client's own, which tells nobody that its connection is gone. */
  readonly isSilent?: boolean;
  /** Whether its tests run at once, as each of them mostly waits for the broker. */
  readonly isConcurrent?: boolean;
  /** How often a case that fails is tried again, where what stands in for a broker is not to be relied on. */
  readonly retries?: number;
  open(): Promise<Topic>;
}

/**
 * The options of an adapter that do as a test says.
 *
 * @param bodyOf the body of the adapter's message
 * @param isBatched hands what is for one message to a function of batches
 */
export function optionsOf<Message, Transaction>(
  { handler, transaction, batch, payload, onDelivery }: Consume<Transaction>,
  bodyOf: (message: Message) => string,
  isBatched = false,
) {
  const inTurn = async (messages: readonly Message[], one: (body: string) => unknown) => {
    for (const message of messages) await one(bodyOf(message));
  };
  const handlers = {
    ...(batch && { batch: (messages: readonly Message[]) => batch(messages.map(bodyOf)) }),
    ...(handler &&
      (isBatched
        ? { batch: (messages: readonly Message[]) => inTurn(messages, handler) }
        : { handler: (message: Message) => handler(bodyOf(message)) })),
    ...(transaction &&
      (isBatched
        ? {
            transactionBatch: (tx: Transaction, messages: readonly Message[]) =>
              inTurn(messages, (body) => transaction(tx, body)),
          }
        : { transaction: (tx: Transaction, one: Message) => transaction(tx, bodyOf(one)) })),
  } as MessageHandler<Message, Transaction>;
  return {
    ...handlers,
    ...(payload && { payload: (message: Message) => payload(bodyOf(message)) }),
    onDelivery: ({ message, delivery, unsettled }: DeliveryReport<Message>) =>
      onDelivery(delivery, bodyOf(message), unsettled),
  };
}

/** That of a client which consumes by itself, and is told to stop. */
export function consumptionOf(stop: () => Promise<void>): Consumption {
  let stopped: Promise<void> | undefined;
  let onStopped = () => {};
  const closed = new Promise<void>((resolve) => {
    onStopped = resolve;
  });
  const close = () => {
    stopped ??= stop().finally(onStopped);
    return stopped;
  };
  return { closed, close };
}

const OPTIONS = { retryDelayMax: 40, lease: 400 };

export async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await condition())) await delay(10);
}

interface ConsumeSettings {
  inbox?: Inbox;
  signal?: AbortSignal;
  isBatched?: boolean;
  payload?: (body: string) => unknown;
  /** Collects the bodies of what this consumer was done with. */
  done?: Set<string>;
}

/** A topic, a store, and what became of the messages of one test. */
class Scene {
  readonly topic: Topic;
  readonly store: Store = memoryStore();
  readonly kinds: string[] = [];
  readonly unsettled: unknown[] = [];
  readonly handled: string[] = [];
  readonly #consumers: Consumer[] = [];

  constructor(topic: Topic) {
    this.topic = topic;
  }

  inboxOn(on: Store = this.store, options = {}): Inbox {
    const idempotency = new Idempotency({ store: on, cache: false });
    return createInbox(idempotency, "suite", { ...OPTIONS, ...options });
  }

  /** Starts a consumer whose handler notes what it handles. */
  async consume(
    handler: (body: string) => unknown = () => {},
    { inbox = this.inboxOn(), signal, isBatched, payload, done }: ConsumeSettings = {},
  ): Promise<Consumer> {
    const one = (body: string) => {
      this.handled.push(body);
      return handler(body);
    };
    const many = async (bodies: readonly string[]) => {
      for (const body of bodies) await one(body);
    };
    const consumer = await this.topic.consume(inbox, {
      ...(isBatched ? { batch: many } : { handler: one }),
      payload,
      ...(signal && { signal }),
      onDelivery: (delivery, body, failure) => {
        this.kinds.push(delivery.kind);
        if (delivery.kind === "processed" || delivery.kind === "duplicate") done?.add(body);
        if (failure !== undefined) this.unsettled.push(failure);
      },
    });
    this.#consumers.push(consumer);
    return consumer;
  }

  /** Starts a consumer that writes what it handles into its transaction. */
  async consumeInTransactions(inbox: Inbox<OpenDatabase>): Promise<void> {
    const consumer = await this.topic.consume(inbox, {
      transaction: (tx, body) => {
        tx.prepare("INSERT INTO effects VALUES (?)").run(body);
      },
      onDelivery: ({ kind }) => this.kinds.push(kind),
    });
    this.#consumers.push(consumer);
  }

  settled(kind: string): number {
    return this.kinds.filter((one) => one === kind).length;
  }

  async stop(): Promise<void> {
    await Promise.all(this.#consumers.map((consumer) => consumer.close()));
  }

  /** Stops what consumes, and waits until the broker has been told of everything. */
  async empty(): Promise<void> {
    await this.stop();
    await until(async () => (await this.topic.remaining()) === 0);
  }

  async deadLetters(): Promise<string[]> {
    await until(async () => (await this.topic.deadLetters()).length > 0);
    return this.topic.deadLetters();
  }
}

/** A handler that waits to be let go. */
function gate() {
  let open = () => {};
  const opened = new Promise<void>((resolve) => {
    open = resolve;
  });
  return { handler: () => opened, open };
}

export function consumerSuite(harness: BrokerHarness): void {
  const { redeliverAfterMs, missing, retries = 0 } = harness;
  const { isConcurrent = false, isSilent = false } = harness;
  const skipped = missing ? ` (skipped: ${missing})` : "";
  const scenic = (name: string, body: (scene: Scene) => Promise<void>, isSkipped = false) =>
    test.skipIf(isSkipped)(name, { concurrent: isConcurrent, retry: retries }, async () => {
      const topic = await harness.open();
      const scene = new Scene(topic);
      try {
        await body(scene);
      } finally {
        await scene.stop();
        await topic.close();
      }
    });

  describe.skipIf(missing !== undefined)(`${harness.name}${skipped}`, () => {
    scenic("MSG-1: a message that was published twice is handled once", async (scene) => {
      await scene.topic.publish("m-1", "one");
      await scene.topic.publish("m-1", "one");
      await scene.consume();
      await until(() => scene.settled("processed") === 1 && scene.settled("duplicate") === 1);
      await scene.empty();
      expect(scene.handled).toEqual(["one"]);
      expect(await scene.topic.deadLetters()).toEqual([]);
    });

    scenic("MSG-1: of concurrent consumers one handles each message", async (scene) => {
      const ids = Array.from({ length: 30 }, (_, index) => `m-${index}`);
      for (const id of ids) await scene.topic.publish(id, id);
      const turn = () => delay(1);
      await Promise.all([scene.consume(turn), scene.consume(turn), scene.consume(turn)]);
      for (const id of ids) await scene.topic.publish(id, id);
      await until(() => scene.settled("processed") === 30 && scene.settled("duplicate") >= 30);
      await scene.empty();
      expect(scene.handled.toSorted()).toEqual(ids.toSorted());
    });

    scenic(
      "MSG-2: a message that always fails is a dead letter after `attemptsMax`",
      async (scene) => {
        await scene.topic.publish("bad", "bad");
        await scene.topic.publish("good", "good");
        const handler = (body: string) => {
          if (body === "bad") throw new Error("cannot");
        };
        await scene.consume(handler, { inbox: scene.inboxOn(scene.store, { attemptsMax: 3 }) });
        await until(() => scene.settled("poison") === 1 && scene.settled("processed") === 1);
        await scene.stop();
        expect(await scene.deadLetters()).toEqual(["bad"]);
        expect(scene.handled.filter((body) => body === "bad")).toHaveLength(3);
        await until(async () => (await scene.topic.remaining()) === 0);
        expect(scene.unsettled).toEqual([]);
      },
    );

    scenic(
      "MSG-2: another payload under the same id is a dead letter, and is not handled",
      async (scene) => {
        await scene.consume();
        await scene.topic.publish("m-1", "one");
        await until(() => scene.settled("processed") === 1);
        await scene.topic.publish("m-1", "another");
        await until(() => scene.settled("mismatch") === 1);
        await scene.stop();
        expect(await scene.deadLetters()).toEqual(["another"]);
        expect(scene.handled).toEqual(["one"]);
        await until(async () => (await scene.topic.remaining()) === 0);
      },
    );

    scenic(
      "MSG-2: a message that does not parse is a dead letter, and holds up no others",
      async (scene) => {
        await scene.topic.publish("m-1", '{ "half":');
        await scene.topic.publish("m-2", '{ "whole": 1 }');
        await scene.topic.publish("m-3", '"\\ud800"');
        await scene.topic.publish("m-4", '{ "whole": 2 }');
        await scene.consume(() => {}, { payload: (body) => JSON.parse(body) });
        await until(() => scene.settled("unidentified") === 2 && scene.settled("processed") === 2);
        await scene.stop();
        await until(async () => (await scene.topic.deadLetters()).length === 2);
        expect((await scene.topic.deadLetters()).toSorted()).toEqual(['"\\ud800"', '{ "half":']);
        expect(scene.handled.toSorted()).toEqual(['{ "whole": 1 }', '{ "whole": 2 }']);
        await until(async () => (await scene.topic.remaining()) === 0);
        expect(scene.unsettled).toEqual([]);
      },
    );

    scenic(
      "MSG-1: ids beyond what a key may be, by length and by characters, are told apart",
      async (scene) => {
        // RabbitMQ takes ids of up to 255 bytes, which a key of ASCII may just have.
        const long = `commande-é-${"x".repeat(240)}`;
        for (const end of ["a", "b", "a"]) await scene.topic.publish(long + end, end);
        await scene.consume();
        await until(() => scene.settled("processed") === 2 && scene.settled("duplicate") === 1);
        await scene.empty();
        expect(scene.handled.toSorted()).toEqual(["a", "b"]);
      },
    );

    scenic(
      "MSG-2: a connection that breaks in the middle of a batch repeats nothing of it",
      async (scene) => {
        const { handler, open } = gate();
        const bodies = Array.from({ length: 4 }, (_, index) => `body ${index}`);
        for (const body of bodies) await scene.topic.publish(body, body);
        const first = await scene.consume(handler, { isBatched: true });
        first.consumption.closed.catch(() => {});
        await until(() => scene.handled.length > 0);
        await first.cut();
        // The first consumer can acknowledge nothing of what it has, so that all of it comes again.
        const done = new Set<string>();
        await scene.consume(() => {}, { isBatched: true, done });
        open();
        await until(() => done.size === bodies.length);
        await scene.empty();
        expect(scene.settled("processed")).toBe(bodies.length);
        expect(scene.settled("duplicate")).toBeGreaterThan(0);
        expect(scene.handled.toSorted()).toEqual(bodies);
        expect(await scene.topic.deadLetters()).toEqual([]);
      },
    );

    scenic(
      "MSG-2: `close()` and the signal take no more, and wait for what is in flight",
      async (scene) => {
        const { handler, open } = gate();
        const stop = new AbortController();
        const inbox = scene.inboxOn(scene.store, { concurrency: 1 });
        const consumer = await scene.consume(handler, { inbox, signal: stop.signal });
        await scene.topic.publish("m-1", "one");
        await until(() => scene.handled.length === 1);
        stop.abort();
        let isClosed = false;
        const closed = consumer.consumption.close().then(() => {
          isClosed = true;
        });
        await scene.topic.publish("m-2", "two");
        expect(isClosed).toBe(false);
        open();
        await closed;
        await consumer.consumption.closed;
        expect(scene.kinds).toEqual(["processed"]);
        expect(scene.handled).toEqual(["one"]);
        await scene.stop();
        await until(async () => (await scene.topic.remaining()) === 1);
      },
    );

    scenic(
      "MSG-2: a connection that breaks in the middle of a handler does not repeat it",
      async (scene) => {
        const { handler, open } = gate();
        const first = await scene.consume(handler);
        const ended = first.consumption.closed.then(
          () => "resolved",
          () => "rejected",
        );
        await scene.topic.publish("m-1", "one");
        await until(() => scene.handled.length === 1);
        await first.cut();
        await scene.consume();
        open();
        if (!isSilent) expect(await ended).toBe("rejected");
        await until(() => scene.settled("duplicate") === 1);
        await scene.empty();
        expect(scene.handled).toEqual(["one"]);
      },
    );

    scenic(
      "MSG-2: an acknowledgement that fails after the record is followed by a duplicate",
      async (scene) => {
        let cut = async () => {};
        const settle: Store["settle"] = async (ending) => {
          const answer = await scene.store.settle(ending);
          await cut();
          return answer;
        };
        const first = await scene.consume(() => {}, {
          inbox: scene.inboxOn(overriding(scene.store, { settle })),
        });
        first.consumption.closed.catch(() => {});
        cut = () => first.cut();
        await scene.topic.publish("m-1", "one");
        await until(() => scene.settled("processed") === 1);
        // That it comes again shows that the broker was not told; some clients do not say so.
        await scene.consume();
        await until(() => scene.settled("duplicate") === 1);
        await scene.empty();
        expect(scene.handled).toEqual(["one"]);
      },
    );

    scenic(
      "MSG-2: heartbeats keep a slow handler's message from being delivered again (skipped where the broker waits for ever)",
      async (scene) => {
        const slow = async () => delay(redeliverAfterMs! * 2.5);
        await scene.consume(slow);
        await scene.consume(slow);
        await scene.topic.publish("m-1", "one");
        await until(() => scene.kinds.length > 0);
        await scene.empty();
        expect(scene.kinds).toEqual(["processed"]);
        expect(scene.handled).toEqual(["one"]);
      },
      redeliverAfterMs === undefined,
    );

    scenic(
      "MSG-1: a consumer that is killed between its record and the acknowledgement leaves a duplicate",
      async (scene) => {
        const { store, effects, killAt, close } = await effectsIn(harness, scene.topic);
        try {
          await killAt("recorded", () => scene.topic.publish("m-1", "one"));
          await scene.consume(() => {}, { inbox: scene.inboxOn(store) });
          await until(() => scene.settled("duplicate") === 1);
          await scene.empty();
          expect(scene.handled).toEqual([]);
          expect(effects()).toEqual(["one"]);
        } finally {
          await scene.stop();
          close();
        }
      },
    );

    scenic(
      "MSG-1: a consumer that is killed in its transaction leaves nothing, and the redelivery is the one effect",
      async (scene) => {
        const { store, effects, killAt, close } = await effectsIn(harness, scene.topic);
        try {
          await killAt("written", () => scene.topic.publish("m-1", "one"));
          expect(effects()).toEqual([]);
          const idempotency = new Idempotency<OpenDatabase>({ store, cache: false });
          await scene.consumeInTransactions(createInbox(idempotency, "suite", OPTIONS));
          await until(() => scene.settled("processed") === 1);
          await scene.empty();
          expect(effects()).toEqual(["one"]);
        } finally {
          await scene.stop();
          close();
        }
      },
    );
  });
}

/** A database of effects and records, and another process that handles a message with it. */
async function effectsIn(harness: BrokerHarness, topic: Topic) {
  const folder = mkdtempSync(join(tmpdir(), "semel-consumer-"));
  const database = join(folder, "inbox.db");
  const open = () => sqliteDrivers[0]!.open(database);
  const [records, transactions] = [open(), open()];
  const store = sqliteStore(records, { transactions });
  await store.migrate();
  records.exec("CREATE TABLE effects (body TEXT)");
  return {
    store,
    effects: () =>
      (records.prepare("SELECT body FROM effects").all() as { body: string }[]).map(
        ({ body }) => body,
      ),
    /** Lets the other process handle a message up to a point, and kills it there. */
    async killAt(point: "recorded" | "written", publish: () => Promise<void>) {
      const settings = {
        broker: harness.kind ?? harness.name,
        address: topic.address,
        database,
        point,
      };
      const script = join(import.meta.dirname, "consumer-process.mjs");
      const child = spawn(process.execPath, ["--no-warnings", script, JSON.stringify(settings)], {
        stdio: ["ignore", "pipe", "inherit"],
      });
      const ended = new Promise((resolve) => child.once("exit", resolve));
      const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
      try {
        expect((await lines.next()).value).toBe("ready");
        await publish();
        expect((await lines.next()).value).toBe(point);
      } finally {
        child.kill("SIGKILL");
        await ended;
      }
    },
    close() {
      for (const one of [records, transactions]) one.close();
      rmSync(folder, { recursive: true, force: true });
    },
  };
}
