// The other side of `sqlite-reader.ts`: a connection of its own, asked for one thing after the other.

import { parentPort, workerData } from "node:worker_threads";
import { isSemelError } from "semel";
import { openSqlite } from "./sqlite.ts";
import type { Question, Reply } from "./sqlite-reader.ts";

const { path, table } = workerData as { path: string; table: string | undefined };
const { store } = openSqlite(path, { mayCreate: false, table });

parentPort!.on("message", async (question: Question) => {
  parentPort!.postMessage(await replyTo(question));
});

async function replyTo({ number, of, method, argument }: Question): Promise<Reply> {
  try {
    const asked = of === "store" ? store : store.queue;
    return { number, value: await asked[method](argument as never) };
  } catch (error) {
    const code = isSemelError(error) ? error.code : undefined;
    return { number, error: { code, message: (error as Error).message } };
  }
}
