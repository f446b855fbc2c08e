// The other side of `sqlite-reader.ts`: a connection of its own, asked for one thing after the other.

import { parentPort, workerData } from "node:worker_threads";
import { isSemelError } from "semel";
import { openSqlite } from "./sqlite.ts";
import type { Question, Reply } from "./sqlite-reader.ts";

const { path, table } = workerData as { path: string; table: string | undefined };
const { store } = openSqlite(path, { mayCreate: false, table });

parentPort!.on("message", async ({ number, method, argument }: Question) => {
  parentPort!.postMessage(await replyTo(number, method, argument));
});

async function replyTo(
  number: number,
  method: Question["method"],
  argument: unknown,
): Promise<Reply> {
  try {
    return { number, value: await store[method](argument as never) };
  } catch (error) {
    const code = isSemelError(error) ? error.code : undefined;
    return { number, error: { code, message: (error as Error).message } };
  }
}
