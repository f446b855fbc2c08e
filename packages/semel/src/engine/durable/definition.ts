// What a durable operation is (EN-7): a name that any process can find its handler by, and what is to
// become of it when an attempt fails.

import type { Codec } from "../../codec.ts";
import type { Duration } from "../../duration.ts";
import { InvalidOption, PayloadInvalid } from "../../errors.ts";
import { type Fingerprinter, type FingerprintSelection, fingerprinter } from "../../fingerprint.ts";
import { assertScope } from "../../key.ts";
import { assertKnownOptions, assertMethods, assertOneOf, shown } from "../../options.ts";
import type { Operation } from "../attempt.ts";
import { messageOf } from "../execution.ts";
import { type Policy, type Probe, policyOf } from "../policy.ts";
import { RETRY_OPTIONS, type Retrying, type RetryOptions, retryingOf } from "../queue/retrying.ts";
import { issuesText, type StandardSchemaV1 } from "./standard-schema.ts";

/** A durable operation's definition, but for its input's schema. */
export interface DurableOptions<Input, Value> {
  /**
   * Does the work, perhaps in another process than the one that was asked, and again after a failure
   * or a crash: in steps. A retry passes over those that are done.
   */
  handler: (input: Input, operation: Operation) => Value | Promise<Value>;
  /** @default 10 attempts, pauses from "1s" to "1h" */
  retry?: RetryOptions;
  /**
   * After the last attempt failed: `"hold"` waits for an administrator, `"fail"` undoes what its steps
   * did and makes the failure the result. What cannot be retried always does the latter.
   * @default "hold"
   */
  onExhausted?: "hold" | "fail";
  /** As for `run()`. @default "rerun" */
  onCrash?: "hold" | "rerun" | Probe<Value>;
  /** How long its result is kept. @default that of the instance */
  retention?: Duration;
  /** How long an attempt is exclusive without a heartbeat. @default that of the instance */
  lease?: Duration;
  /** A bound for held records. @default that of the instance */
  heldRetention?: Duration;
}

const OPTIONS = [
  "input",
  "handler",
  "retry",
  "onExhausted",
  "onCrash",
  "retention",
  "lease",
  "heldRetention",
  "fingerprint",
];
export const DURABLE_NAME_LENGTH_MAX = 255;
const ATTEMPTS_MAX = 10;
/** An operation that is not finished yet is not forgotten, however long that takes. */
export const UNFINISHED_MS = 10 * 365 * 86_400_000;

/** A definition, checked. */
export interface Definition {
  readonly name: string;
  readonly handler: (input: unknown, operation: Operation) => unknown;
  readonly schema: StandardSchemaV1 | undefined;
  readonly fingerprint: Fingerprinter;
  readonly retrying: Retrying;
  readonly onExhausted: "hold" | "fail";
  readonly policy: Policy;
}

/** @throws {InvalidOption} */
export function definitionOf(name: string, options: unknown, base: Policy): Definition {
  assertDurableName(name);
  const where = `operation("${name}")`;
  assertKnownOptions(options, OPTIONS, where);
  const given = options as DurableOptions<unknown, unknown> & {
    input?: StandardSchemaV1;
    fingerprint?: FingerprintSelection<never>;
  };
  const { handler, input, onExhausted = "hold", retry = {} } = given;
  if (typeof handler !== "function") throw new InvalidOption(`${where} takes a handler function`);
  if (input !== undefined) assertMethods(input["~standard"], "input['~standard']", ["validate"]);
  assertOneOf(onExhausted, ["hold", "fail"], "onExhausted");
  assertKnownOptions(retry, RETRY_OPTIONS, `\`retry\` of ${where}`);
  const retrying = retryingOf(retry, { attemptsMax: ATTEMPTS_MAX }, "retry.");
  return {
    name,
    handler,
    schema: input,
    fingerprint: fingerprinter(given.fingerprint),
    retrying,
    onExhausted,
    policy: durablePolicy(given, retrying, base),
  };
}

function durablePolicy(
  { retention, lease, heldRetention, onCrash = "rerun" }: DurableOptions<unknown, unknown>,
  { attemptsMax }: Retrying,
  base: Policy,
): Policy {
  const policy = policyOf(
    {
      ...{ attemptsMax, onCrash, onError: "release", wait: 0, refuseLate: false },
      ...(retention !== undefined && { retention }),
      ...(lease !== undefined && { lease }),
      ...(heldRetention !== undefined && { heldRetention }),
    },
    base,
  );
  const lapsedRetentionMs = policy.onCrash === "rerun" ? null : policy.lapsedRetentionMs;
  return { ...policy, openRetentionMs: UNFINISHED_MS, lapsedRetentionMs };
}

/**
 * The input as the handler takes it.
 *
 * @throws {PayloadInvalid} when the schema refuses it, and what the schema throws
 */
export async function validated({ name, schema }: Definition, input: unknown): Promise<unknown> {
  if (schema === undefined) return input;
  const result = await schema["~standard"].validate(input);
  if (result.issues === undefined) return result.value;
  throw new PayloadInvalid(
    `The input of operation "${name}" is not valid: ${issuesText(result.issues)}`,
    { cause: result.issues },
  );
}

/** @throws {PayloadInvalid} */
export function encodedInput(codec: Codec, bytesMax: number, name: string, input: unknown) {
  try {
    const bytes = codec.encode(input);
    if (bytes.byteLength <= bytesMax) return bytes;
    throw new Error(`it takes ${bytes.byteLength} bytes of ${bytesMax}`);
  } catch (cause) {
    throw new PayloadInvalid(
      `The input of operation "${name}" cannot be stored: ${messageOf(cause)}`,
      { cause },
    );
  }
}

function assertDurableName(name: unknown): asserts name is string {
  const isName =
    typeof name === "string" &&
    name.length >= 1 &&
    name.length <= DURABLE_NAME_LENGTH_MAX &&
    name.isWellFormed() &&
    !name.includes("\0");
  if (isName) return;
  throw new InvalidOption(
    `A durable operation's name must be a string of 1 to ${DURABLE_NAME_LENGTH_MAX} characters, got ${shown(name)}`,
  );
}

/**
 * The scope of a durable operation's records: framed, so that neither another operation nor a request
 * with the same key has the same record.
 */
export function durableScope(name: string, scope: string): string {
  assertDurableName(name);
  const framed = `operation/${name.length}:${name}/${scope}`;
  assertScope(framed);
  return framed;
}
