// Reads a SQLite file in a thread of its own. SQLite answers at once or not at all: to count a million
// records here would keep every request of the gateway waiting for a second or two.

import { existsSync } from "node:fs";
import { Worker } from "node:worker_threads";
import { type ErrorCode, SemelError, type Store, type StoreQueue, StoreUnavailable } from "semel";

/** What looking needs of a store. */
export type ReadingStore = Pick<Store, "name" | "read" | "list" | "stats"> & {
  readonly queue?: ReadingQueue;
};
export type ReadingQueue = Pick<StoreQueue, "read" | "list" | "stats">;

export interface Question {
  number: number;
  of: "store" | "queue";
  method: "read" | "list" | "stats";
  argument: unknown;
}

export type Reply = { number: number } & (
  | { value: unknown }
  | { error: { code: ErrorCode | undefined; message: string } }
);

interface Waiting {
  resolve(value: unknown): void;
  reject(error: Error): void;
}

/** Whether another connection finds the same records: not in memory, and not by a URI of SQLite's own. */
export function isFile(path: string): boolean {
  return !path.startsWith("file:") && existsSync(path);
}

export class SqliteReader {
  readonly #worker: Worker;
  readonly #waiting = new Map<number, Waiting>();
  #number = 0;
  #failure: Error | undefined;

  constructor(path: string, table: string | undefined) {
    const module = new URL("./sqlite-reader-worker.js", import.meta.url);
    this.#worker = new Worker(module, { workerData: { path, table } });
    this.#worker.unref();
    this.#worker.on("message", (reply: Reply) => this.#answered(reply));
    this.#worker.on("error", (cause) => this.#broken(cause));
    this.#worker.on("exit", () => this.#broken(new Error("the thread has ended")));
  }

  get store(): ReadingStore {
    const reading = <Answer>(of: Question["of"], method: Question["method"]) => {
      return (argument?: unknown) => this.#ask(of, method, argument) as Promise<Answer>;
    };
    return {
      name: "sqlite",
      read: reading("store", "read"),
      list: reading("store", "list"),
      stats: reading("store", "stats"),
      queue: {
        read: reading("queue", "read"),
        list: reading("queue", "list"),
        stats: reading("queue", "stats"),
      },
    };
  }

  async close(): Promise<void> {
    await this.#worker.terminate();
  }

  #ask(of: Question["of"], method: Question["method"], argument: unknown): Promise<unknown> {
    if (this.#failure) return Promise.reject(this.#failure);
    this.#number++;
    const question: Question = { number: this.#number, of, method, argument };
    return new Promise((resolve, reject) => {
      this.#waiting.set(question.number, { resolve, reject });
      this.#worker.postMessage(question);
    });
  }

  #answered(reply: Reply): void {
    const waiting = this.#waiting.get(reply.number);
    this.#waiting.delete(reply.number);
    if ("error" in reply) {
      const { code, message } = reply.error;
      waiting?.reject(code ? new SemelError(code, message) : new Error(message));
    } else waiting?.resolve(reply.value);
  }

  #broken(cause: Error): void {
    this.#failure ??= new StoreUnavailable("The thread that reads the file has ended", { cause });
    for (const { reject } of this.#waiting.values()) reject(this.#failure);
    this.#waiting.clear();
  }
}
