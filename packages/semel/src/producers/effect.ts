// What publishers of effects share: an effect as the relay delivers it, its bytes, and the name under
// which its id travels where a broker has no place of its own for it.

import { hash } from "node:crypto";
import { InvalidOption } from "../errors.ts";
import { assertKnownOptions } from "../options.ts";

/**
 * The header, user property, attribute or field that carries a message's id. Consumers read it by
 * default.
 */
export const ID_NAME = "idempotency-key";

/** An effect as `idempotency.relay()` delivers it (EN-8). */
export interface Effect {
  /** The same at every delivery, and no other effect's. */
  readonly id: string;
  readonly name: string;
  readonly payload: unknown;
  /** Of the operation that it belongs to, as `key`. */
  readonly scope: string;
  readonly key: string;
  /** Aborts when another relay took the effect over. */
  readonly signal?: AbortSignal;
}

/** Publishes an effect; resolves once the broker has it. Fits `idempotency.relay({ name: … })`. */
export type Publish = (effect: Effect) => Promise<void>;

/** A value, or how to find it for an effect. */
export type PerEffect<Value> = Value | ((effect: Effect) => Value);

export interface PublishOptions {
  /** The bytes or text of a message. @default the payload as JSON */
  encode?: ((effect: Effect) => string | Uint8Array) | undefined;
}

/**
 * Makes a publisher: checks what is given, and sends nothing for an effect that another relay has.
 *
 * @param where the publisher's function, for messages
 * @param names its own options
 * @param send resolves once the broker has the message
 * @throws {InvalidOption}
 */
export function publisher(
  where: string,
  options: PublishOptions,
  names: readonly string[],
  send: (effect: Effect, body: Buffer) => Promise<unknown>,
): Publish {
  assertKnownOptions(options, ["encode", ...names], where);
  const { encode = asJson } = options;
  if (typeof encode !== "function") throw new InvalidOption("`encode` must be a function");
  return async (effect) => {
    effect.signal?.throwIfAborted();
    await send(effect, bytesOf(encode(effect)));
  };
}

/** @throws {InvalidOption} */
export function perEffect<Value>(
  value: PerEffect<Value>,
  option: string,
): (effect: Effect) => Value {
  if (typeof value === "function") return value as (effect: Effect) => Value;
  if (typeof value === "string" && value !== "") return () => value;
  throw new InvalidOption(`\`${option}\` must be a name, or a function of the effect`);
}

/** The operation of an effect as 32 hexadecimal digits: for brokers that keep what has one key in order. */
export function operationOf({ scope, key }: Effect): string {
  return hash("sha256", `${scope.length}:${scope}${key}`, "hex").slice(0, 32);
}

/** An effect without a payload is `null`, as JSON has no word for nothing. */
function asJson({ payload }: Effect): string {
  return JSON.stringify(payload) ?? "null";
}

function bytesOf(encoded: string | Uint8Array): Buffer {
  if (typeof encoded === "string") return Buffer.from(encoded);
  return Buffer.from(encoded.buffer, encoded.byteOffset, encoded.byteLength);
}
