// One case's world: a store, an engine, a server of the framework under test, and a watch that fails
// the case when the process would have crashed.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Clock, systemClock } from "../../clock.ts";
import { Idempotency, type IdempotencyOptions } from "../../engine/idempotency.ts";
import type { Store } from "../../store.ts";
import { memoryStore } from "../../stores/memory.ts";
import { type Fault, type FaultyStore, faultyStore } from "../faulty-store.ts";
import { patterned, type Route } from "./catalogue.ts";
import { type Reply, type Sending, send } from "./client.ts";
import type { FrameworkHarness, Served, ServeSetup, SuiteOptions } from "./harness.ts";
import { Stage } from "./stage.ts";
import { inTime } from "./waiting.ts";

export interface SceneSetup {
  /** Options of the engine. */
  engine?: Omit<Partial<IdempotencyOptions>, "store" | "clock">;
  /** Options of the routes; `scope` is `"shared"` unless given. */
  http?: SuiteOptions;
  parsers?: ServeSetup["parsers"];
  outside?: ServeSetup["outside"];
  /** What goes wrong in the store. */
  faults?: readonly Fault[];
}

export interface Post extends Omit<Sending, "path"> {
  /** The key, sent as a bare `Idempotency-Key`. */
  key?: string | undefined;
  /** Where the route is mounted, and its query. */
  prefix?: string;
  query?: string;
}

/** The world of a case. */
export class Scene {
  readonly stage: Stage;
  readonly store: FaultyStore;
  readonly idempotency: Idempotency;
  readonly #clock: MovingClock;
  readonly #served: Served;
  readonly #restart: (store: Store) => Promise<Scene>;

  constructor(parts: {
    stage: Stage;
    store: FaultyStore;
    idempotency: Idempotency;
    clock: MovingClock;
    served: Served;
    restart: (store: Store) => Promise<Scene>;
  }) {
    this.stage = parts.stage;
    this.store = parts.store;
    this.idempotency = parts.idempotency;
    this.#clock = parts.clock;
    this.#served = parts.served;
    this.#restart = parts.restart;
  }

  get port(): number {
    return this.#served.port;
  }

  /** Lets time pass for the store and the engine. */
  elapse(ms: number): void {
    this.#clock.move(ms);
  }

  /** Sends a request to a route. */
  post(route: Route, { key, prefix = "", query = "", ...sending }: Post = {}): Promise<Reply> {
    const headers = { ...(key !== undefined && { "idempotency-key": key }), ...sending.headers };
    return send(this.port, { ...sending, headers, path: `${prefix}/${route}${query}` });
  }

  /** Retries with the same key, as clients do, until the answer is not "in progress". */
  async settled(route: Route, post: Post): Promise<Reply> {
    for (;;) {
      const reply = await this.post(route, post);
      if (reply.headers["idempotency-status"]?.[0] !== "in-progress") return reply;
    }
  }

  runs(route: Route): number {
    return this.stage.runs(route);
  }

  /** Another process on the same store: its own engine, server and stage. */
  another(): Promise<Scene> {
    return this.#restart(this.store);
  }

  async close(): Promise<void> {
    await inTime(this.#served.close(), "the end of every connection");
    await this.idempotency.close({ deadline: "1ms" });
  }
}

/** The system's clock, set forward by a test. */
class MovingClock implements Clock {
  #offsetMs = 0;

  now(): number {
    return systemClock.now() + this.#offsetMs;
  }

  schedule(delayMs: number, callback: () => void): () => void {
    return systemClock.schedule(delayMs, callback);
  }

  move(ms: number): void {
    this.#offsetMs += ms;
  }
}

/** Runs a case in a world of its own. */
export async function withScene(
  harness: FrameworkHarness,
  setup: SceneSetup,
  run: (scene: Scene) => Promise<void>,
): Promise<void> {
  const watch = watchProcess();
  const folder = await mkdtemp(join(tmpdir(), "semel-framework-"));
  const file = { path: join(folder, "file.bin"), bytes: patterned(200_000) };
  await writeFile(file.path, file.bytes);
  const clock = new MovingClock();
  const opened = await (harness.openStore?.() ?? { store: memoryStore({ clock }), close: noClose });
  const scenes: Scene[] = [];
  const start = async (store: Store): Promise<Scene> => {
    const stage = new Stage(file);
    const faulty = faultyStore(store, setup.faults);
    const idempotency = new Idempotency({ ...setup.engine, store: faulty, clock });
    const options: SuiteOptions = (field) => ({ scope: "shared", ...setup.http?.(field) });
    const { parsers = "none", outside } = setup;
    const served = await harness.serve({ idempotency, options, stage, parsers, outside });
    const restart = () => start(store);
    const scene = new Scene({ stage, store: faulty, idempotency, clock, served, restart });
    scenes.push(scene);
    return scene;
  };
  try {
    await run(await start(opened.store));
    for (const scene of scenes) await scene.close();
    await watch.assertCalm();
  } finally {
    watch.stop();
    await opened.close();
    await rm(folder, { recursive: true, force: true });
  }
}

async function noClose(): Promise<void> {}

/** Nothing may crash the process, and nothing may pile up listeners. */
function watchProcess(): { assertCalm(): Promise<void>; stop(): void } {
  const troubles: unknown[] = [];
  const onTrouble = (trouble: unknown) => {
    troubles.push(trouble);
  };
  const onWarning = (warning: Error) => {
    if (warning.name === "MaxListenersExceededWarning") troubles.push(warning);
  };
  process.on("unhandledRejection", onTrouble).on("uncaughtException", onTrouble);
  process.on("warning", onWarning);
  return {
    async assertCalm() {
      for (let turns = 0; turns < 3; turns++) await new Promise((next) => setImmediate(next));
      assert.deepEqual(troubles, [], "something would have crashed the process");
    },
    stop() {
      process.off("unhandledRejection", onTrouble).off("uncaughtException", onTrouble);
      process.off("warning", onWarning);
    },
  };
}

/** A key that no other case uses. */
export function freshKey(): string {
  return randomUUID();
}
