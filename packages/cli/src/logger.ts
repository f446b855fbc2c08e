// Structured logs of what goes on running, a JSON document a line. Nobody gives it a key, a credential, a
// query or a body.

import { once } from "node:events";
import { setTimeout as delay } from "node:timers/promises";
import { type Logger, pino } from "pino";

/** A reader that takes no more, or is gone, does not keep a process from its end. */
const END_MS_MAX = 1_000;

export interface JsonLog {
  readonly logger: Logger;
  /** Writes what is under way. What is logged later is lost: only the end of the process may follow. */
  end(): Promise<void>;
}

/** On the standard output. */
export function jsonLog(): JsonLog {
  const destination = pino.destination({ dest: 1, sync: false });
  const logger = pino(
    {
      base: null,
      messageKey: "message",
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (level) => ({ level }) },
    },
    destination,
  );
  return {
    logger,
    // The process's own exit would write once more what is just being written.
    async end() {
      logger.level = "silent";
      const closed = once(destination, "close").catch(() => {});
      destination.end();
      await Promise.race([closed, delay(END_MS_MAX, undefined, { ref: false })]);
    },
  };
}
