// What an agent is told when its call did not run: a tool error, never a protocol error, with a code for
// programs and words that say what to do next.

import type { ErrorCode, Retry, SemelError } from "../errors.ts";

/** What a tool answers when a call was not run, or nobody knows what came of it. */
export type ToolRefusal = {
  isError: true;
  content: { type: "text"; text: string }[];
  structuredContent?: { [name: string]: unknown };
  _meta: { [name: string]: unknown };
};

/** What a program reads of a {@link ToolRefusal}: its `structuredContent` and `_meta["semel/error"]`. */
export interface RefusalFacts {
  code: ErrorCode;
  /** What may be done with the key. */
  retry: Retry;
  /** What to do next, in words for an agent. */
  next: string;
  /** When a retry is worth it, in milliseconds from now. */
  retryAfterMs?: number;
}

/** The member of `_meta` that carries {@link RefusalFacts}. */
export const ERROR_META = "semel/error";

const RETRY_AFTER_MS = 1_000;

interface Words {
  what: string;
  next: string;
}

const SAME_KEY = "call the tool again with exactly the same arguments and the same key";
const NOT_RECORDED: Words = {
  what: "The call could not be recorded, so nothing was done.",
  next: `Wait a moment, then ${SAME_KEY}.`,
};
const UNKNOWN: Words = {
  what: "An earlier call with this key was begun, and nobody knows whether it took effect.",
  next: "Do not call again, neither with this key nor with a new one: it could be done twice. Tell the user that the outcome is unknown and that somebody has to find out and resolve it.",
};

const WORDS: Partial<Record<ErrorCode, Words>> = {
  "operation-in-progress": {
    what: "The first call with this key is still running.",
    next: `Wait a moment, then ${SAME_KEY} to get its result. Do not use a new key: it could be done twice.`,
  },
  "attempt-superseded": {
    what: "This call was taken over by a repetition of it, which has the result.",
    next: `Wait a moment, then ${SAME_KEY} to get it.`,
  },
  "key-reused": {
    what: "This key belongs to an earlier call with other arguments; nothing was done now.",
    next: "To repeat the earlier call, send exactly its arguments. If this is another action, call again with a new key.",
  },
  "outcome-unknown": UNKNOWN,
  "steps-diverged": UNKNOWN,
  "step-invalid": UNKNOWN,
  "not-serializable": UNKNOWN,
  "operation-void": {
    what: "This operation was cancelled by an administrator; it has not run and never will.",
    next: "Ask the user whether it is still wanted. If so, call again with a new key.",
  },
  "key-expired": {
    what: "This call is older than keys are remembered for, so it may have been done already.",
    next: "Do not call again. Look up whether it was done, or tell the user.",
  },
  "result-not-stored": {
    what: "The call was done, but its result was not kept.",
    next: "Do not call again: it is done. Read what you need with another tool.",
  },
  "key-missing": {
    what: "The call carries no key, so nothing was done: a repetition of it could not be told from a second call.",
    next: "Call again with a fresh random UUID as its key, and with the same key whenever you repeat this call.",
  },
  "scope-missing": {
    what: "It is not known on whose behalf the call is made; nothing was done.",
    next: "Do not repeat it. The user has to sign in first.",
  },
  "store-unavailable": NOT_RECORDED,
  "store-full": NOT_RECORDED,
  closed: NOT_RECORDED,
};

const BY_RETRY: Record<Retry, string> = {
  "same-key": `You may ${SAME_KEY}.`,
  "new-key": "Correct it, then call again with a new key.",
  never: "Do not repeat the call. Tell the user.",
};

/** Errors whose message is about what the caller sent, or about what the handler says itself. */
const TELLING = new Set<ErrorCode>([
  "key-invalid",
  "payload-invalid",
  "operation-failed",
  "not-applied",
]);

/**
 * A tool's answer for an error of Semel's. Messages that concern the operator stay here.
 *
 * @param structured whether the facts may be the result's structured content: a tool's output schema
 * binds that of errors as well
 */
export function toolRefusal(error: SemelError, structured: boolean): ToolRefusal {
  const { code, retry } = error;
  const words = WORDS[code] ?? {
    what: TELLING.has(code) ? `${error.message}.` : "The call failed.",
    next: BY_RETRY[retry],
  };
  return refusal({ code, retry, next: words.next }, words.what, structured);
}

/**
 * A tool's answer when its handler was broken off by an error of Semel's that is about something else: a
 * step that was made and could not be saved, or an operation within the operation. What such an error
 * advises is not meant for whoever called the tool.
 */
export function brokenOff({ code }: SemelError, structured: boolean): ToolRefusal {
  const next = `Wait a moment, then ${SAME_KEY}. Do not use a new key: it could be done twice.`;
  const what = `The call had begun when something that it needs failed (${code}), so part of it may be done.`;
  return refusal({ code: "operation-failed", retry: "same-key", next }, what, structured);
}

function refusal(told: RefusalFacts, what: string, structured: boolean): ToolRefusal {
  const facts = told.retry === "same-key" ? { ...told, retryAfterMs: RETRY_AFTER_MS } : told;
  return {
    isError: true,
    content: [{ type: "text", text: `${what} ${facts.next}` }],
    ...(structured && { structuredContent: { ...facts } }),
    _meta: { [ERROR_META]: facts },
  };
}
