// Digests of payloads: the same key with another fingerprint is a misuse (SM-2). The label in front
// names the algorithm and the selection, so that a deploy that changes either never turns an honest
// retry into a mismatch. What may be selected and what always counts, as the target of an HTTP request
// does, are digests of their own, joined by a full stop.

import { hash } from "node:crypto";
import { canonicalForm } from "./canonical-form.ts";
import { InvalidOption } from "./errors.ts";
import { assertKnownOptions, shown } from "./options.ts";

/**
 * What of a payload counts.
 *
 * - `include` or `exclude`: JSON Pointers (RFC 6901) of the parts that count, or that do not.
 * - a function: what it returns counts instead of the payload.
 */
export type FingerprintSelection<Payload = unknown> =
  | { include: readonly string[] }
  | { exclude: readonly string[] }
  | ((payload: Payload) => unknown);

/** Version of the algorithm for values: SHA-256 over the canonical JSON of RFC 8785. */
const VALUE_ALGORITHM = "v1";

/** Is in no label, and in no digest. */
const JOINT = ".";

export type Fingerprinter = (payload: unknown) => string;

/**
 * Makes the function that turns a payload into `label:digest`.
 *
 * @throws {InvalidOption} when the selection is not one
 */
export function fingerprinter(selection?: FingerprintSelection<never>): Fingerprinter {
  if (selection === undefined) return (payload) => digest(VALUE_ALGORITHM, payload);
  if (typeof selection === "function") {
    const select = selection as (payload: unknown) => unknown;
    return (payload) => digest(`${VALUE_ALGORITHM}f`, select(payload));
  }
  assertKnownOptions(selection, ["include", "exclude"], "`fingerprint`");
  if ("include" in selection && "exclude" in selection) {
    throw new InvalidOption("`fingerprint` takes either `include` or `exclude`, not both");
  }
  const [mode, pointers] =
    "include" in selection ? ["include", selection.include] : ["exclude", selection.exclude];
  const paths = parsePointers(pointers, mode);
  const label = `${VALUE_ALGORITHM}-${hash("sha256", JSON.stringify([mode, pointers]), "hex").slice(0, 8)}`;
  const pick = mode === "include" ? included : excluded;
  return (payload) => digest(label, pick(payload, paths));
}

/**
 * Whether two differing fingerprints can be told apart: they are of one label, or differ in a digest of
 * one label. Across labels the key alone decides.
 */
export function isComparable(one: string, other: string): boolean {
  const others = other.split(JOINT);
  const pairs = one.split(JOINT).map((part, i) => [part, others[i] ?? ""] as const);
  const isAlike = ([part, another]: readonly [string, string]) =>
    labelOf(part) === labelOf(another);
  return pairs.every(isAlike) || pairs.some((pair) => isAlike(pair) && pair[0] !== pair[1]);
}

/** A fingerprint of several digests, each of which is compared under its own label. */
export function joined(...fingerprints: string[]): string {
  return fingerprints.join(JOINT);
}

/** A fingerprint whose digests are others, made of the old ones with their labels. */
export function redigested(fingerprint: string, digestOf: (part: string) => string): string {
  const parts = fingerprint.split(JOINT);
  return parts.map((part) => `${labelOf(part)}:${digestOf(part)}`).join(JOINT);
}

/**
 * The kind of operation that a fingerprint was made for: those of requests over HTTP have labels of
 * their own (`http/body-fingerprint.ts`). `undefined`: it is of an algorithm that is not known here.
 */
export function operationKindOf(fingerprint: string): "http" | "value" | undefined {
  if (/^h\d/.test(fingerprint)) return "http";
  return /^v\d/.test(fingerprint) ? "value" : undefined;
}

/** SHA-256 in base64url with its label in front. */
export function labelled(label: string, data: string | Uint8Array): string {
  return `${label}:${hash("sha256", data, "base64url")}`;
}

function digest(label: string, payload: unknown): string {
  return labelled(label, canonicalForm(payload));
}

function labelOf(fingerprint: string): string {
  return fingerprint.slice(0, fingerprint.indexOf(":"));
}

type Path = readonly string[];

function parsePointers(pointers: unknown, mode: string): Path[] {
  if (!Array.isArray(pointers) || pointers.length === 0) {
    throw new InvalidOption(`\`fingerprint.${mode}\` must be a non-empty list of JSON Pointers`);
  }
  return pointers.map((pointer: unknown) => {
    if (typeof pointer !== "string" || !pointer.startsWith("/")) {
      throw new InvalidOption(
        `\`fingerprint.${mode}\` holds ${shown(pointer)}, which is not a JSON Pointer such as "/amount" (RFC 6901)`,
      );
    }
    return pointer
      .slice(1)
      .split("/")
      .map((part) => part.replaceAll("~1", "/").replaceAll("~0", "~"));
  });
}

function included(payload: unknown, paths: readonly Path[]): unknown {
  return paths.map((path) => {
    let value = payload;
    for (const part of path) value = property(value, part);
    // Absent and null stay apart.
    return value === undefined ? [] : [value];
  });
}

function excluded(payload: unknown, paths: readonly Path[]): unknown {
  let copy = payload;
  for (const path of paths) copy = without(copy, path);
  return copy;
}

function without(value: unknown, [part, ...rest]: Path): unknown {
  if (part === undefined || property(value, part) === undefined) return value;
  const copy = (Array.isArray(value) ? [...value] : { ...(value as object) }) as Record<
    string,
    unknown
  >;
  if (rest.length > 0) copy[part] = without(copy[part], rest);
  // A hole, not a shift: what follows in an array keeps its place.
  else copy[part] = undefined;
  return copy;
}

function property(value: unknown, name: string): unknown {
  if (typeof value !== "object" || value === null || !Object.hasOwn(value, name)) return undefined;
  // An array has places, and no names such as `length` (RFC 6901 §4).
  if (Array.isArray(value) && !/^(?:0|[1-9]\d*)$/.test(name)) return undefined;
  return (value as Record<string, unknown>)[name];
}
