// Entity tags (RFC 9110 §8.8.3): made of versions and bytes, read from header fields, compared.

import { createHash } from "node:crypto";
import { InvalidOption } from "../errors.ts";
import { shown } from "../options.ts";

/** A tag as it stood in a field: `W/"7"` is `{ weak: true, opaque: "7" }`. */
export interface EntityTag {
  weak: boolean;
  /** What is between the quotes. */
  opaque: string;
}

/** `*`, or the tags of a list. */
export type EntityTagList = "*" | readonly EntityTag[];

/** `etagc`: no quote, no space, no control character (RFC 9110 §8.8.3). */
const OPAQUE = /^[\x21\x23-\x7e\x80-\xff]*$/;

/**
 * The strong entity tag of a version: `etag(7)` is `"7"`, quotes included. Right where equal
 * versions mean equal bytes; where one version has several representations (JSON and CSV, or
 * compressed and not), give each its own: `etag(`${version}-csv`)`.
 *
 * @param version a counter, or visible characters without quotes and spaces
 * @throws {InvalidOption} for anything that no entity tag can hold
 * @example response.setHeader("ETag", etag(row.version));
 */
export function etag(version: string | number | bigint): string {
  return `"${opaqueOf(version)}"`;
}

/**
 * The weak entity tag of a version, `W/"7"`: for representations that are equivalent and not equal
 * byte by byte. `If-None-Match` accepts weak tags, `If-Match` never does (RFC 9110 §13.1.1).
 *
 * @param version a counter, or visible characters without quotes and spaces
 * @throws {InvalidOption} for anything that no entity tag can hold
 * @example response.setHeader("ETag", weakEtag(page.revision));
 */
export function weakEtag(version: string | number | bigint): string {
  return `W/${etag(version)}`;
}

/**
 * The strong entity tag of a representation's bytes: their SHA-256.
 *
 * @param bytes the whole body as it is sent; a string counts as UTF-8
 * @example response.setHeader("ETag", etagOf(body));
 */
export function etagOf(bytes: Uint8Array | string): string {
  return `"${createHash("sha256").update(bytes).digest("base64url")}"`;
}

function opaqueOf(version: unknown): string {
  const isVersion =
    typeof version === "string" || typeof version === "bigint" || Number.isFinite(version);
  const opaque = String(version);
  if (isVersion && opaque !== "" && OPAQUE.test(opaque)) return opaque;
  throw new InvalidOption(
    `An entity tag is made of a number or of visible characters without quotes and spaces, got ${shown(version)}; hash other text with etagOf()`,
  );
}

/** Reads one entity tag, or nothing where there is none. */
export function parseEntityTag(text: string): EntityTag | undefined {
  const weak = text.startsWith("W/");
  const quoted = weak ? text.slice(2) : text;
  if (quoted.length < 2 || !quoted.startsWith('"') || !quoted.endsWith('"')) return undefined;
  const opaque = quoted.slice(1, -1);
  return OPAQUE.test(opaque) ? { weak, opaque } : undefined;
}

/** The value of a field that holds entity tags, or what is wrong with it. */
export type ParsedEntityTags =
  | { kind: "tags"; tags: EntityTagList }
  | { kind: "malformed"; reason: string };

/**
 * Reads the value of `If-Match` or `If-None-Match`: `*`, or entity tags between commas, which may
 * stand within the quotes as well. Empty elements are skipped (RFC 9110 §5.6.1.2); a list of
 * nothing else is malformed here, because it guards nothing.
 */
export function parseEntityTags(value: string): ParsedEntityTags {
  if (trimmed(value) === "*") return { kind: "tags", tags: "*" };
  const tags: EntityTag[] = [];
  for (const element of elements(value)) {
    const text = trimmed(element);
    if (text === "") continue;
    if (text === "*") return { kind: "malformed", reason: "`*` stands alone, not in a list" };
    const tag = parseEntityTag(text);
    if (tag === undefined) {
      return {
        kind: "malformed",
        reason: 'an entity tag looks like "…" or W/"…", with its quotes',
      };
    }
    tags.push(tag);
  }
  if (tags.length === 0) return { kind: "malformed", reason: "it lists no entity tag" };
  return { kind: "tags", tags };
}

/** Splits at the commas outside quotes. An entity tag has no escapes: a quote ends it. */
function* elements(value: string): Generator<string> {
  let start = 0;
  let isQuoted = false;
  for (let at = 0; at < value.length; at++) {
    if (value[at] === '"') isQuoted = !isQuoted;
    if (value[at] !== "," || isQuoted) continue;
    yield value.slice(start, at);
    start = at + 1;
  }
  yield value.slice(start);
}

/** Without the spaces and tabs around it, which is all that HTTP calls white space. */
export function trimmed(text: string): string {
  let start = 0;
  let end = text.length;
  while (start < end && isBlank(text[start])) start++;
  while (end > start && isBlank(text[end - 1])) end--;
  return text.slice(start, end);
}

function isBlank(character: string | undefined): boolean {
  return character === " " || character === "\t";
}

/** Both strong, and the same characters (RFC 9110 §8.8.3.2). */
export function matchesStrongly(one: EntityTag, other: EntityTag): boolean {
  return !one.weak && !other.weak && one.opaque === other.opaque;
}

/** The same characters, weak or not (RFC 9110 §8.8.3.2). */
export function matchesWeakly(one: EntityTag, other: EntityTag): boolean {
  return one.opaque === other.opaque;
}
