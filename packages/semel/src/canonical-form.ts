// The canonical form of values, which is what digests are made of: the JSON of RFC 8785, whose names are
// sorted and whose numbers and strings are written in one way.

import { PayloadInvalid } from "./errors.ts";

/** Deeper payloads are refused, so that no payload can exhaust the stack. */
const DEPTH_MAX = 200;

/**
 * The canonical form of a value. Payloads that JSON tells apart never look alike; what it cannot
 * say is tagged (`bigint`, bytes, `Map`, `Set`) or refused, because dropped it would make different
 * payloads the same. What has a `toJSON` counts as what that returns. `undefined` is `""`.
 *
 * @throws {PayloadInvalid} for functions, symbols, cycles, lone surrogates, NaN, infinities, and
 * objects whose content cannot be seen, such as an `Error`, a `Promise` or a stream
 */
export function canonicalForm(value: unknown): string {
  try {
    return formOf(value, 0) ?? "";
  } catch (error) {
    if (error instanceof PayloadInvalid) throw error;
    throw new PayloadInvalid(
      `The payload has no canonical JSON form (RFC 8785): ${(error as Error).message}`,
      { cause: error },
    );
  }
}

/** @returns nothing for `undefined`, which JSON leaves out */
function formOf(value: unknown, depth: number): string | undefined {
  if (depth > DEPTH_MAX) {
    throw new PayloadInvalid(`The payload is nested more than ${DEPTH_MAX} deep, or cyclic`);
  }
  switch (typeof value) {
    case "string":
      return quoted(value);
    case "number":
      // What ECMAScript makes of it (RFC 8785 §3.2.2.3), as for the rest.
      if (Number.isFinite(value)) return String(value);
      throw new RangeError(`${value} is not allowed`);
    case "boolean":
      return value ? "true" : "false";
    case "undefined":
      return undefined;
    case "bigint":
      return `{"$bigint":"${value}"}`;
    case "object":
      return value === null ? "null" : formOfObject(value, depth + 1);
    default:
      throw new PayloadInvalid(`The payload holds a ${typeof value}, which has no canonical form`);
  }
}

function quoted(text: string): string {
  if (!text.isWellFormed()) throw new RangeError("a lone surrogate is not allowed");
  return JSON.stringify(text);
}

function formOfObject(value: object, depth: number): string | undefined {
  if (Array.isArray(value)) return formOfList(value, depth);
  if (value instanceof Uint8Array) return `{"$bytes":"${Buffer.from(value).toString("base64")}"}`;
  if (value instanceof Map) return `{"$map":${formOfList([...value], depth)}}`;
  if (value instanceof Set) return `{"$set":${formOfList([...value], depth)}}`;
  if ("toJSON" in value && typeof value.toJSON === "function") return formOf(value.toJSON(), depth);
  assertVisible(value);
  return formOfRecord(value as Record<string, unknown>, depth);
}

function formOfList(list: readonly unknown[], depth: number): string {
  let form = "[";
  // Not `for … of`, and no `map`, which would leave holes.
  for (let i = 0; i < list.length; i++) {
    form += `${i === 0 ? "" : ","}${formOf(list[i], depth) ?? "null"}`;
  }
  return `${form}]`;
}

function formOfRecord(record: Record<string, unknown>, depth: number): string {
  let form = "{";
  // Sorted by UTF-16 code units, as §3.2.3 says and `sort` does.
  for (const name of Object.keys(record).map(untagged).sort()) {
    const isUntagged = name.startsWith("$$") && TAG.test(name);
    const item = formOf(record[isUntagged ? name.slice(1) : name], depth);
    if (item !== undefined) form += `${form.length === 1 ? "" : ","}${quoted(name)}:${item}`;
  }
  return `${form}}`;
}

/** A payload's own name that looks like a tag gets one `$` more, so that it is none. */
function untagged(name: string): string {
  return name.startsWith("$") && TAG.test(name) ? `$${name}` : name;
}

const TAG = /^\$+(?:bigint|bytes|map|set)$/;

/** Refuses what would count as `{}` whatever it holds. */
function assertVisible(value: object): void {
  const prototype = Object.getPrototypeOf(value);
  const name = Object.prototype.toString.call(value).slice("[object ".length, -1);
  const isPlain = prototype === null || Object.getPrototypeOf(prototype) === null;
  if (name === "Object" && (isPlain || Object.keys(value).length > 0)) return;
  const kind = name === "Object" ? (prototype.constructor?.name ?? "object") : name;
  throw new PayloadInvalid(
    `The payload holds a value (${kind}) whose content cannot be seen; give plain data, or choose what counts with \`fingerprint\``,
  );
}
