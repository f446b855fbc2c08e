// A middleware for tRPC 11 that runs a mutation once for each key.

import { TRPCError } from "@trpc/server";
import { isSemelError, KeyInvalid, KeyMissing, ScopeMissing } from "semel";

/**
 * @typedef {import("@trpc/server").TRPC_ERROR_CODE_KEY} TrpcCode
 * @typedef {{ idempotencyKey: string | undefined, callsInRequest: number }} IdempotencyContext
 */

/** @type {Partial<Record<import("semel").ErrorCode, TrpcCode>>} */
const TRPC_CODES = {
  "operation-in-progress": "CONFLICT",
  "key-reused": "UNPROCESSABLE_CONTENT",
  "outcome-unknown": "CONFLICT",
  "operation-void": "CONFLICT",
  "key-expired": "PRECONDITION_FAILED",
  "attempt-superseded": "CONFLICT",
  "result-not-stored": "CONFLICT",
  "store-unavailable": "SERVICE_UNAVAILABLE",
  "store-full": "SERVICE_UNAVAILABLE",
  "store-unusable": "SERVICE_UNAVAILABLE",
  closed: "SERVICE_UNAVAILABLE",
  "key-invalid": "BAD_REQUEST",
  "key-missing": "BAD_REQUEST",
  "payload-invalid": "BAD_REQUEST",
  "scope-missing": "UNAUTHORIZED",
};

/** What clients read instead of messages for the operator, which tell of drivers and of reasons. */
/** @type {Partial<Record<import("semel").ErrorCode, string>>} */
const PUBLIC_MESSAGES = {
  "outcome-unknown": "The outcome of this operation is unknown; do not retry with a new key",
  "operation-failed": "The operation failed; its failure is its result",
  "not-serializable": "The operation ran, and its result could not be recorded",
  "step-invalid": "The operation failed in its steps",
  "steps-diverged": "The outcome of this operation is unknown; do not retry with a new key",
};

/** One bare key or one quoted String, as `Idempotency-Key` is written; two lines are joined by a comma. */
const HEADER = /^(?:"([^"\\]+)"|([^\s",]+))$/;

/**
 * Where a call's key may be, for `createContext`.
 *
 * @param {string | string[] | null | undefined} header the field `Idempotency-Key`
 * @param {{ calls: readonly unknown[] } | undefined} info what tRPC tells of the HTTP request
 * @returns {IdempotencyContext}
 */
export function idempotencyContext(header, info) {
  const line = header === null || header === undefined ? undefined : String(header);
  return { idempotencyKey: line, callsInRequest: info?.calls.length ?? 1 };
}

/**
 * A middleware for `.use()`, after `.input()`: what validation refuses then claims no key. Queries and
 * subscriptions pass through.
 *
 * @template {IdempotencyContext} Context
 * @param {import("semel").Idempotency} idempotency
 * @param {import("semel").OperationOptions & { scope(ctx: Context): string | undefined }} options
 */
export function idempotentProcedure(idempotency, { scope, ...options }) {
  /**
   * @template Result
   * @param {{
   *   ctx: Context, type: string, path: string, getRawInput(): Promise<unknown>,
   *   next(changes?: { ctx: { operation: import("semel").Operation | undefined } }): Promise<Result>,
   * }} call
   */
  return async ({ ctx, type, path, getRawInput, next }) => {
    if (type !== "mutation") return next({ ctx: { operation: undefined } });
    /** @typedef {{ ok: true, data: unknown } | { ok: false, error: TRPCError }} Ended */
    /** @type {(Result & Ended) | undefined} */
    let own;
    try {
      const input = await getRawInput();
      const owner = scope(ctx);
      if (!owner) throw new ScopeMissing("It is not known whose key this is; authenticate first");
      const outcome = await idempotency.run(
        { ...options, key: keyOf(ctx, input), scope: owner, payload: { path, input } },
        async (operation) => {
          own = /** @type {Result & Ended} */ (await next({ ctx: { operation } }));
          if (own.ok) return own.data;
          // A proof that nothing was applied counts, also inside of a TRPCError.
          throw isSemelError(own.error.cause) ? own.error.cause : own.error;
        },
      );
      if (own && !outcome.replayed) return own;
      // What `next()` would have given. tRPC has no other way to answer without it.
      const replay = { ok: true, data: outcome.value, marker: "middlewareMarker" };
      return /** @type {Result} */ (replay);
    } catch (error) {
      if (own && !own.ok && (error === own.error || error === own.error.cause)) return own;
      throw isSemelError(error) ? trpcError(error) : error;
    }
  };
}

/**
 * @param {IdempotencyContext} ctx
 * @param {unknown} input as the client sent it
 */
function keyOf({ idempotencyKey, callsInRequest }, input) {
  const own = /** @type {{ idempotencyKey?: string } | undefined | null} */ (input)?.idempotencyKey;
  if (own !== undefined) return own;
  if (idempotencyKey === undefined) {
    throw new KeyMissing("Send `idempotencyKey` in the input, or the header Idempotency-Key");
  }
  if (callsInRequest > 1) {
    throw new KeyInvalid(
      "The calls of a batch cannot share the key in the header: send `idempotencyKey` in the input of each",
    );
  }
  const match = HEADER.exec(idempotencyKey);
  if (match === null) throw new KeyInvalid("Idempotency-Key must be one key, bare or quoted");
  return match[1] ?? match[2] ?? "";
}

/** @param {import("semel").SemelError} error */
function trpcError(error) {
  const code = TRPC_CODES[error.code] ?? "INTERNAL_SERVER_ERROR";
  const fallback =
    code === "SERVICE_UNAVAILABLE" || code === "INTERNAL_SERVER_ERROR"
      ? "Keys cannot be looked up at the moment; nothing ran"
      : error.message;
  return new TRPCError({ code, message: PUBLIC_MESSAGES[error.code] ?? fallback, cause: error });
}

/**
 * For `initTRPC.create({ errorFormatter })`: clients find Semel's code, and whether to reuse or to rotate
 * the key, in `data.idempotency`.
 *
 * @template Data
 * @param {{ shape: { message: string, code: number, data: Data }, error: { cause?: unknown } }} failure
 */
export function formatIdempotencyError({ shape, error: { cause } }) {
  const idempotency = isSemelError(cause) ? { code: cause.code, retry: cause.retry } : undefined;
  return { ...shape, data: { ...shape.data, idempotency } };
}
