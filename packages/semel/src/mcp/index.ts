// Tools of the Model Context Protocol (MSG-4): an agent that repeats a call gets the first result.

import { hash } from "node:crypto";
import { canonicalForm } from "../canonical-form.ts";
import type { Attempt, Operation } from "../engine/attempt.ts";
import type { Idempotency } from "../engine/idempotency.ts";
import type { OperationOptions } from "../engine/policy.ts";
import { assertIdempotency } from "../engine/settings.ts";
import {
  type ErrorCode,
  InvalidOption,
  isSemelError,
  KeyInvalid,
  KeyMissing,
  ScopeMissing,
} from "../errors.ts";
import { fingerprinter } from "../fingerprint.ts";
import { KEY_LENGTH_MAX } from "../key.ts";
import { assertToolOptions, type ToolOptions } from "./options.ts";
import { brokenOff, type ToolRefusal, toolRefusal } from "./refusal.ts";
import type { TextSchema, ToolExtra, ToolResult } from "./types.ts";

export type { Operation } from "../engine/attempt.ts";
export type { ToolOptions } from "./options.ts";
export { ERROR_META, type RefusalFacts, type ToolRefusal } from "./refusal.ts";
export type { TextSchema, ToolExtra, ToolResult } from "./types.ts";

/** The member of a request's `_meta` that carries a key. */
export const KEY_META = "semel/idempotencyKey";
/** The member of a result's `_meta` that is `true` when it is the first call's result. */
export const REPLAYED_META = "semel/replayed";

/** What an agent has to know of the argument that is the key; for a tool's input schema. */
export const KEY_DESCRIPTION =
  "Names this one action, so that a repetition does not do it twice. Use a fresh random UUID for each new action. When you repeat a call because it timed out or failed, send the same value with the same arguments: you get the first result.";

/**
 * The argument that is the key, for a tool's input schema.
 *
 * @param text `z.string()` of your `zod`, version 3 or 4
 * @example const inputSchema = { amount: z.number(), idempotencyKey: keyArgument(z.string()) };
 */
export function keyArgument<Schema extends TextSchema<Schema>>(text: Schema): Schema {
  return text.min(1).max(KEY_LENGTH_MAX).describe(KEY_DESCRIPTION);
}

/**
 * The scope that a tool's records have, for `resolve()`, `get()` and the command line.
 *
 * @param tool its name
 * @param scope what the option `scope` says of the caller; nothing for `"shared"`
 * @example await idempotency.resolve({ key, scope: toolScope("charge", "acct_1") }, verdict);
 */
export function toolScope(tool: string, scope?: string): string {
  // A tool's name has no space, so no two pairs are written alike.
  return scope === undefined ? tool : `${tool} ${scope}`;
}

/** What a tool does, once for each key. */
export type ToolHandler<Args, Extra extends ToolExtra, Result extends ToolResult> = (
  args: Args,
  extra: Extra,
  /** Absent for a call without a key, where `required` is `false`. */
  operation: Operation | undefined,
) => Result | Promise<Result>;

/**
 * Makes a tool's handler run once for each key; for `registerTool()` of the official SDK.
 *
 * A call that does not run (the first one still does, the key was used otherwise, nobody knows what
 * came of the first) is answered with a tool error that says what to do. A result with `isError`
 * follows `onError`, as an error that is thrown does: by default the key may run again. When the
 * client cancels, an attempt that has begun goes on: its `extra.signal` is the operation's.
 *
 * @param options whose call it is, where its key is, and options of the operation
 * @param handler does the work; its result is stored whole
 * @throws {InvalidOption} when an option is missing, unknown or out of bounds
 * @example
 * server.registerTool(
 *   "charge",
 *   { inputSchema: { amount: z.number(), idempotencyKey: keyArgument(z.string()) } },
 *   idempotentTool(idempotency, { tool: "charge", scope: accountOf }, async ({ amount }) => {
 *     const charge = await payments.charge(amount);
 *     return { content: [{ type: "text", text: `charged ${charge.id}` }] };
 *   }),
 * );
 */
export function idempotentTool<
  Args extends object,
  Extra extends ToolExtra,
  Result extends ToolResult,
>(
  idempotency: Idempotency,
  options: ToolOptions<Args, Extra, Result>,
  handler: ToolHandler<Args, Extra, Result>,
): (args: Args, extra: Extra) => Promise<Result | ToolRefusal> {
  assertIdempotency(idempotency);
  assertToolOptions(options);
  if (typeof handler !== "function") throw new InvalidOption("idempotentTool() takes a handler");
  const { tool, scope, key, derive, required, fingerprint, structuredErrors, ...rest } = options;
  // Checked now, as the rest: a wrong duration must not wait for the first call.
  const { onError } = idempotency.policy(rest as OperationOptions);
  fingerprinter(fingerprint);
  return async (args, extra) => {
    assertExtra(extra);
    let thrown: { error: unknown } | undefined;
    let hasBegun = false;
    try {
      const called = await callOf(options, args, extra);
      if (called === undefined) return await handler(args, extra, undefined);
      const { value, replayed } = await idempotency.run<Result, Partial<Args>>(
        { ...rest, ...called, ...(fingerprint && { fingerprint }), signal: extra.signal },
        async (operation) => {
          hasBegun = true;
          try {
            const result = await handler(args, uncancelled(extra, operation), operation);
            return result?.isError ? await failed(result, onError, operation) : result;
          } catch (error) {
            thrown = { error };
            throw error;
          }
        },
      );
      return replayed ? marked(value) : value;
    } catch (error) {
      if (error instanceof Failed) return error.result as Result;
      if (!isSemelError(error) || error.code === "option-invalid") throw error;
      const isForeign = thrown?.error === error && !OF_ITSELF.has(error.code);
      // A step that nobody waited for could not be saved, say.
      const isLate = hasBegun && error.code.startsWith("store-");
      return (isForeign || isLate ? brokenOff : toolRefusal)(error, structuredErrors ?? true);
    }
  };
}

/** What an operation's own methods, or its handler, throw to say what becomes of the operation itself. */
const OF_ITSELF = new Set<ErrorCode>([
  "not-applied",
  "outcome-unknown",
  "attempt-superseded",
  "steps-diverged",
  "step-invalid",
  "not-serializable",
]);

/** Carries a result that is not to be stored past the engine. */
class Failed extends Error {
  readonly result: ToolResult;
  constructor(result: ToolResult) {
    super("tool-error: the handler's result said `isError`");
    this.result = result;
  }
}

/** @throws {Failed} unless failures are results */
async function failed<Result extends ToolResult>(
  result: Result,
  onError: "release" | "hold" | "store",
  operation: Operation,
): Promise<Result> {
  if (onError !== "store") throw new Failed(result);
  // Stored, it is the operation's end, and a failure: what its steps did is undone.
  await (operation as Attempt).undoOrHold(new Failed(result));
  return result;
}

/** The operation that a call is; `undefined`: none, and it runs unprotected. */
async function callOf<Args extends object, Extra extends ToolExtra, Result>(
  options: ToolOptions<Args, Extra, Result>,
  args: Args,
  extra: Extra,
): Promise<{ key: string; scope: string; payload: Partial<Args> } | undefined> {
  const { tool, scope, key = "idempotencyKey", derive, required = true } = options;
  const payload = typeof key === "string" ? without(args, key) : args;
  const named = keyOf(key, args, extra) ?? (derive && derivedKey(payload, extra));
  if (named === undefined) {
    if (!required) return undefined;
    throw new KeyMissing(`A call of ${tool} needs a key`);
  }
  if (scope === "shared") return { key: named, scope: toolScope(tool), payload };
  const caller = await scope(extra, args);
  if (caller) return { key: named, scope: toolScope(tool, caller), payload };
  throw new ScopeMissing("It is not known whose call this is; nothing ran");
}

function keyOf<Args extends object, Extra extends ToolExtra>(
  key: string | ((args: Args, extra: Extra) => string | undefined),
  args: Args,
  extra: Extra,
): string | undefined {
  const named =
    typeof key === "function" ? key(args, extra) : (args as Record<string, unknown>)[key];
  // `null` is what models send for what they leave out.
  const found = named ?? extra._meta?.[KEY_META] ?? undefined;
  if (found === undefined || typeof found === "string") return found;
  throw new KeyInvalid(`A key must be a string, got ${typeof found}`);
}

/**
 * One session's equal calls have one key. Over HTTP without sessions nobody knows whose calls are
 * whose, so there is none; on stdio the connection has one caller, whom `scope` names.
 */
function derivedKey(payload: object, extra: ToolExtra): string | undefined {
  const { sessionId, requestInfo } = extra;
  if (sessionId === undefined && requestInfo !== undefined) return undefined;
  const session = sessionId ?? "";
  const framed = `${session.length}:${session}${canonicalForm(payload)}`;
  return `derived-${hash("sha256", framed, "base64url")}`;
}

function without<Args extends object>(args: Args, name: string): Partial<Args> {
  const { [name as keyof Args]: _, ...others } = args;
  return others as Partial<Args>;
}

/** A client that cancels, or leaves, does not undo what was begun (SM-23). */
function uncancelled<Extra extends ToolExtra>(extra: Extra, operation: Operation): Extra {
  return { ...extra, signal: operation.signal };
}

function marked<Result extends ToolResult>(result: Result): Result {
  return { ...result, _meta: { ...result._meta, [REPLAYED_META]: true } };
}

function assertExtra(extra: unknown): asserts extra is ToolExtra {
  if (typeof extra === "object" && extra !== null) return;
  throw new InvalidOption(
    "The tool has no `inputSchema`, and the SDK then leaves out its arguments; give it one, `{}` suffices",
  );
}
