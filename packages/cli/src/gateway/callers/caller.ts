// Who sends a request, where finding out takes more than a look at it: a token that is verified, or a
// service that is asked. Whoever is refused is told the same, whatever was wrong.

import type { IncomingMessage, ServerResponse } from "node:http";
import type { Problem } from "../problem.ts";
import { sendProblem } from "../problem.ts";

/** The scope of a caller's keys, or the answer to somebody who is refused. */
export type Caller = { scope: string } | { refuse(response: ServerResponse): void | Promise<void> };

/** Finds out who sends a request. It never rejects. */
export type FindCaller = (request: IncomingMessage) => Promise<Caller>;

/** A refusal by a problem of the gateway's own. */
export function refusedBy(problem: Problem): Caller {
  return { refuse: (response) => sendProblem(response, problem) };
}

/** When who it is cannot be found out: nobody is let in, and nothing runs. */
export const UNVERIFIABLE = refusedBy({
  status: 503,
  code: "caller-unverifiable",
  detail: "Whose key this is cannot be verified at the moment; nothing ran",
  retry: "same-key",
  headers: { "Retry-After": "1" },
});
