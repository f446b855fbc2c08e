// What a client tells of its attempts.

import type { GaveUp } from "./errors.ts";

/** What every event says of the request. */
export interface EventSubject {
  method: string;
  url: string;
  /** `undefined` for requests that carry none. A secret only as far as the server's scope is. */
  key: string | undefined;
  /** The caller's name for the operation, where it gave one. */
  operation: string | undefined;
}

/** One step of a call, in order: each attempt ends by `answer` or `failure`, each call by `end`. */
export type ClientEvent = EventSubject &
  (
    | { type: "attempt"; attempt: number }
    /** An answer came, as whole as the client reads it itself. `code` is the problem's. */
    | { type: "answer"; attempt: number; status: number; code: string | undefined }
    /** No whole answer came: the network failed, or `attemptTimeout` passed. */
    | { type: "failure"; attempt: number; error: unknown }
    /** There will be another attempt, after a pause. */
    | { type: "retry"; attempt: number; delayMs: number; isRetryAfter: boolean }
    | { type: "end"; attempts: number; reason: "answered" | "aborted" | "failed" | GaveUp }
    /** An answer came, and `storage` could not note it; the key stays in use under its name. */
    | { type: "storage-failure"; error: unknown }
  );
