// Every error that Semel throws: one base, a literal code, and what the caller may do next.

/**
 * What a caller may do after an error.
 *
 * - `same-key`: send the same request again with the same key; it is safe.
 * - `new-key`: this key is used up or wrong; a new attempt needs a new key.
 * - `never`: retrying by machine does not help; a person or an administrator has to look.
 */
export type Retry = "same-key" | "new-key" | "never";

/** Every code with its advice to the caller; `docs/errors.md` explains each. */
export const ERROR_CODES = {
  "operation-in-progress": "same-key",
  "key-reused": "new-key",
  "outcome-unknown": "never",
  "operation-void": "new-key",
  "key-expired": "never",
  "attempt-superseded": "same-key",
  "store-unavailable": "same-key",
  "store-full": "same-key",
  "store-unusable": "never",
  "record-unreadable": "never",
  "key-invalid": "new-key",
  "key-missing": "new-key",
  "scope-missing": "never",
  "body-too-large": "never",
  "body-incomplete": "same-key",
  "payload-invalid": "never",
  "result-not-stored": "never",
  "not-serializable": "never",
  "operation-failed": "new-key",
  "not-applied": "same-key",
  "step-invalid": "never",
  "steps-diverged": "never",
  "effect-invalid": "never",
  "no-answer": "same-key",
  "option-invalid": "never",
  closed: "same-key",
} as const satisfies Record<string, Retry>;

/** The literal code of a {@link SemelError}. */
export type ErrorCode = keyof typeof ERROR_CODES;

const BRAND = Symbol.for("semel.error");

/** The base of every error that Semel throws. */
export class SemelError<Code extends ErrorCode = ErrorCode> extends Error {
  readonly code: Code;
  /** What the caller may do next. */
  readonly retry: Retry;

  constructor(code: Code, message: string, options?: { cause?: unknown; retry?: Retry }) {
    super(message, options && "cause" in options ? { cause: options.cause } : undefined);
    this.name = new.target.name;
    this.code = code;
    this.retry = options?.retry ?? ERROR_CODES[code];
    Object.defineProperty(this, BRAND, { value: true });
  }
}

/**
 * Tells whether a value is an error of Semel's, also across copies of the package. Its `code` then says
 * which one, and so what else it has.
 *
 * @example
 * if (isSemelError(error) && error.code === "operation-in-progress") retryIn(error.retryAfterMs);
 */
export function isSemelError(value: unknown): value is AnySemelError {
  return typeof value === "object" && value !== null && BRAND in value;
}

/** The first attempt is still running; its result will answer the same key later. */
export class OperationBusy extends SemelError<"operation-in-progress"> {
  /** How long the running attempt's lease still lasts, in milliseconds. */
  readonly retryAfterMs: number;
  constructor(retryAfterMs: number, options?: { cause?: unknown }) {
    super(
      "operation-in-progress",
      "An attempt with this key is still running; retry with the same key, or pass `wait`",
      options,
    );
    this.retryAfterMs = retryAfterMs;
  }
}

/** The key was used before with another payload. The stored answer is untouched. */
export class KeyReused extends SemelError<"key-reused"> {
  constructor() {
    super(
      "key-reused",
      "This key was used before with a different payload; use a new key for a new operation",
    );
  }
}

/** Nobody knows whether the operation was applied; it runs no more until it is resolved. */
export class OperationHeld extends SemelError<"outcome-unknown"> {
  readonly reason: string;
  constructor(reason: string) {
    super(
      "outcome-unknown",
      `The outcome of this operation is unknown (${reason}); it will not run again until it is resolved. Do not retry with a new key`,
    );
    this.reason = reason;
  }
}

/** The operation was declared void: it never ran to completion and never will. */
export class OperationVoid extends SemelError<"operation-void"> {
  constructor() {
    super("operation-void", "This operation was voided and will never run; use a new key");
  }
}

/** The request is older than the time its key is remembered, so it may have run before. */
export class KeyExpired extends SemelError<"key-expired"> {
  constructor() {
    super(
      "key-expired",
      "This request was first sent before the time that keys are remembered for, so it may have run already; look up its outcome instead of retrying",
    );
  }
}

/** This attempt's lease lapsed and another attempt took over, so its result was discarded. */
export class AttemptSuperseded extends SemelError<"attempt-superseded"> {
  constructor() {
    super(
      "attempt-superseded",
      "The lease of this attempt lapsed and it was taken over or removed; its result was discarded. Retry with the same key for the outcome",
    );
  }
}

/**
 * The store did not answer. Before an operation begins, nothing ran; later, as when the reply of a commit
 * is lost, it may have been applied. The same key finds out.
 */
export class StoreUnavailable extends SemelError<"store-unavailable"> {
  constructor(message: string, options?: { cause?: unknown }) {
    super("store-unavailable", message, options);
  }
}

/** The store is at its bound and holds nothing that may be removed. */
export class StoreFull extends SemelError<"store-full"> {
  constructor(message: string, options?: { cause?: unknown }) {
    super("store-full", message, options);
  }
}

/** The store is there but cannot serve: not migrated, read-only, from a newer version, damaged. */
export class StoreUnusable extends SemelError<"store-unusable"> {
  constructor(message: string, options?: { cause?: unknown }) {
    super("store-unusable", message, options);
  }
}

/** A record exists that this version cannot read; nothing runs. */
export class RecordUnreadable extends SemelError<"record-unreadable"> {
  constructor(message: string, options?: { cause?: unknown }) {
    super("record-unreadable", message, options);
  }
}

/** The key is empty, too long, malformed or repeated. */
export class KeyInvalid extends SemelError<"key-invalid"> {
  constructor(message: string, options?: { cause?: unknown }) {
    super("key-invalid", message, options);
  }
}

/** A key is required here and none was sent. */
export class KeyMissing extends SemelError<"key-missing"> {
  constructor(message: string) {
    super("key-missing", message);
  }
}

/** The scope function named nobody, so it is unknown whose key this is. */
export class ScopeMissing extends SemelError<"scope-missing"> {
  constructor(message: string) {
    super("scope-missing", message);
  }
}

/** The request body is larger than the bound up to which bodies are read. */
export class BodyTooLarge extends SemelError<"body-too-large"> {
  constructor(bodyBytesMax: number) {
    super("body-too-large", `A request with a key may carry at most ${bodyBytesMax} bytes of body`);
  }
}

/** The request body ended before it was whole; nothing ran. */
export class BodyIncomplete extends SemelError<"body-incomplete"> {
  constructor(options?: { cause?: unknown }) {
    super("body-incomplete", "The request body ended before it was complete; nothing ran", options);
  }
}

/** The payload has no canonical form, so that no fingerprint can be made of it. */
export class PayloadInvalid extends SemelError<"payload-invalid"> {
  constructor(message: string, options?: { cause?: unknown }) {
    super("payload-invalid", message, options);
  }
}

/** The operation completed, but there is no result of it to give: it was too large, or is of another kind. */
export class ResultNotStored extends SemelError<"result-not-stored"> {
  constructor(why = "its result was larger than `maxResultBytes` and was not kept") {
    super("result-not-stored", `This operation completed, but ${why}; it will not run again`);
  }
}

/** The handler returned a value that the codec cannot store; the operation is held. */
export class NotSerializable extends SemelError<"not-serializable"> {
  constructor(message: string, options?: { cause?: unknown }) {
    super("not-serializable", message, options);
  }
}

/** The first attempt failed and its failure was stored (`onError: "store"`). */
export class OperationFailed extends SemelError<"operation-failed"> {
  constructor(cause: Error) {
    super("operation-failed", `The operation failed: ${cause.message}`, { cause });
  }
}

/**
 * Throw it from a handler to prove that nothing was applied: the operation is released whatever
 * `onError` says, and may run again.
 *
 * @example if (response.code === "card_declined_before_auth") throw new NotApplied(response);
 */
export class NotApplied extends SemelError<"not-applied"> {
  constructor(cause?: unknown) {
    const why = cause instanceof Error ? `: ${cause.message}` : "";
    super("not-applied", `The operation was not applied${why}`, { cause });
  }
}

/** A step was called in a way that no record could follow: a name twice, or after the end. */
export class StepInvalid extends SemelError<"step-invalid"> {
  constructor(message: string) {
    super("step-invalid", message);
  }
}

/** An execution took another path than the record of its steps shows. The operation is held. */
export class StepsDiverged extends SemelError<"steps-diverged"> {
  constructor(message: string) {
    super("steps-diverged", message);
  }
}

/** An effect was recorded in a way that nobody could tell it by: a name twice, or after the end. */
export class EffectInvalid extends SemelError<"effect-invalid"> {
  constructor(message: string) {
    super("effect-invalid", message);
  }
}

/** An option is unknown, of the wrong type, or out of bounds. */
export class InvalidOption extends SemelError<"option-invalid"> {
  constructor(message: string) {
    super("option-invalid", message);
  }
}

/** `close()` was called; no new operation begins here. */
export class Closed extends SemelError<"closed"> {
  constructor() {
    super("closed", "This Idempotency instance is closed; nothing new begins");
  }
}

/** Every error that Semel throws, told apart by `code`. That of `no-answer` is in `semel/client`. */
export type AnySemelError =
  | OperationBusy
  | KeyReused
  | OperationHeld
  | OperationVoid
  | KeyExpired
  | AttemptSuperseded
  | StoreUnavailable
  | StoreFull
  | StoreUnusable
  | RecordUnreadable
  | KeyInvalid
  | KeyMissing
  | ScopeMissing
  | BodyTooLarge
  | BodyIncomplete
  | PayloadInvalid
  | ResultNotStored
  | NotSerializable
  | OperationFailed
  | NotApplied
  | StepInvalid
  | StepsDiverged
  | EffectInvalid
  | InvalidOption
  | Closed
  | SemelError<"no-answer">;
