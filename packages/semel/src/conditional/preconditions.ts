// The preconditions of a request, evaluated against what is there now, in the order of RFC 9110
// §13.2.2. Pure: it reads header fields and answers with a verdict.

import { InvalidOption } from "../errors.ts";
import { assertKnownOptions } from "../options.ts";
import {
  type EntityTag,
  type EntityTagList,
  matchesStrongly,
  matchesWeakly,
  parseEntityTag,
  parseEntityTags,
  trimmed,
} from "./entity-tag.ts";
import { parseHttpDate } from "./http-date.ts";

/** `Headers`, `IncomingMessage.headers`, or any object of fields; the case of names is no matter. */
export type HeaderFields =
  | { get(name: string): string | null }
  | { readonly [name: string]: string | readonly string[] | undefined };

/** A `Request`, an `IncomingMessage`, a request of Express, Koa, … */
export interface ConditionalRequest {
  readonly method?: string | undefined;
  readonly headers: HeaderFields;
}

/** What tells one state of a representation from another. */
export interface Validators {
  /** The current entity tag as it is sent, quotes included; `etag(version)` makes one. */
  readonly etag?: string | undefined;
  /** When it was last modified; HTTP has whole seconds, so parts of a second are dropped. */
  readonly lastModified?: Date | undefined;
}

/** Options of {@link evaluatePreconditions}. */
export interface PreconditionOptions {
  /**
   * Whether a request that changes something must be conditional, so that no update is lost (428,
   * RFC 6585 §3). Entity tags count; `If-Unmodified-Since` counts only where the representation has
   * a date and no entity tag, because two changes may share a second.
   * @default false
   */
  readonly required?: boolean | undefined;
  /**
   * Asked when `If-Match` or `If-Unmodified-Since` failed on a request that changes something:
   * whether what it asks for is already so, because its first answer was lost, or because somebody
   * else did the same. RFC 9110 §13.1.1 allows a 2xx answer then.
   * @default only a `DELETE` of what is not there has been applied already
   */
  readonly alreadyApplied?: (() => boolean) | undefined;
}

/** The fields that say under which condition a request is to be performed. */
export type PreconditionField =
  | "if-match"
  | "if-unmodified-since"
  | "if-none-match"
  | "if-modified-since";

/** What is to be done with a request. */
export type Verdict =
  /** Perform it. With `ignoreRange` a `Range` is to be ignored, and the whole sent (`If-Range`). */
  | { readonly kind: "proceed"; readonly ignoreRange: boolean }
  /** 304: the client has it. */
  | { readonly kind: "not-modified"; readonly field: PreconditionField }
  /** 412: the state is not the one that the client expects. */
  | { readonly kind: "failed"; readonly field: PreconditionField }
  /** 2xx without performing it again. */
  | { readonly kind: "already-applied"; readonly field: PreconditionField }
  /** 428: it must be conditional, and is not. */
  | { readonly kind: "required" }
  /** 400: a field that guards cannot be read. */
  | { readonly kind: "malformed"; readonly field: PreconditionField; readonly reason: string };

/** They select no representation and change none (RFC 9110 §13.2.1). */
const UNCONDITIONAL_METHODS = new Set(["CONNECT", "OPTIONS", "TRACE"]);
const OPTIONS = ["required", "alreadyApplied"] as const;

/**
 * Evaluates `If-Match`, `If-Unmodified-Since`, `If-None-Match`, `If-Modified-Since` and `If-Range`
 * in the order of RFC 9110 §13.2.2.
 *
 * Call it after everything that would refuse the request anyway (authentication, 404 for a read,
 * 405, 422), and before it is performed (§13.2.1). It looks at the validators that you read; that
 * nobody changes the row between then and your write is for the write itself to test, as
 * `updateVersion()` of `semel/sql` does.
 *
 * @param request its method and header fields
 * @param current the validators of the current representation; `undefined` or `null` where there is
 * none
 * @throws {InvalidOption} for an unknown option, an `etag` that is none, or an invalid date
 * @example
 * const verdict = evaluatePreconditions(request, row && { etag: etag(row.version) });
 * if (verdict.kind !== "proceed") return send(preconditionResponse(verdict));
 */
export function evaluatePreconditions(
  request: ConditionalRequest,
  current: Validators | null | undefined,
  options: PreconditionOptions = {},
): Verdict {
  assertKnownOptions(options, OPTIONS, "evaluatePreconditions()");
  const method = (request.method ?? "GET").toUpperCase();
  const state = stateOf(current);
  if (UNCONDITIONAL_METHODS.has(method)) return { kind: "proceed", ignoreRange: false };

  const isRead = method === "GET" || method === "HEAD";
  const guard = evaluateGuard(request.headers, state);
  if (guard.kind === "malformed") return guard;
  const noneMatch = evaluateNoneMatch(request.headers, state, isRead);
  if (noneMatch.kind === "malformed") return noneMatch;
  if (guard.kind === "false") return refused(guard.field, method, state, isRead, options);
  if (noneMatch.kind === "false") {
    return { kind: isRead ? "not-modified" : "failed", field: "if-none-match" };
  }
  if (isRead) {
    const isStale = noneMatch.kind === "absent" && isUnmodified(request.headers, state);
    if (isStale) return { kind: "not-modified", field: "if-modified-since" };
    return { kind: "proceed", ignoreRange: ignoresRange(method, request.headers, state) };
  }
  if (options.required && !isGuarded(guard, noneMatch, state)) return { kind: "required" };
  return { kind: "proceed", ignoreRange: false };
}

interface State {
  exists: boolean;
  tag: EntityTag | undefined;
  /** Whole seconds, in milliseconds. */
  modifiedMs: number | undefined;
}

type Condition =
  | { kind: "absent" }
  | { kind: "true"; field: PreconditionField }
  | { kind: "false"; field: PreconditionField }
  | { kind: "malformed"; field: PreconditionField; reason: string };

function stateOf(current: Validators | null | undefined): State {
  if (current === null || current === undefined) {
    return { exists: false, tag: undefined, modifiedMs: undefined };
  }
  assertKnownOptions(current, ["etag", "lastModified"], "The current validators");
  const { etag, lastModified } = current;
  const tag = etag === undefined ? undefined : parseEntityTag(etag);
  if (etag !== undefined && tag === undefined) {
    throw new InvalidOption(
      `\`etag\` must be an entity tag with its quotes, got ${JSON.stringify(etag)}; make one with etag(version)`,
    );
  }
  const ms = lastModified?.getTime();
  if (ms !== undefined && Number.isNaN(ms)) {
    throw new InvalidOption("`lastModified` must be a valid date");
  }
  return { exists: true, tag, modifiedMs: ms === undefined ? ms : Math.floor(ms / 1_000) * 1_000 };
}

/** Steps 1 and 2: `If-Match`, and `If-Unmodified-Since` where that is absent. */
function evaluateGuard(headers: HeaderFields, { exists, tag, modifiedMs }: State): Condition {
  const match = evaluateTags(headers, "if-match", (wanted) =>
    wanted === "*" ? exists : tag !== undefined && wanted.some((one) => matchesStrongly(one, tag)),
  );
  if (match.kind !== "absent") return match;
  const field = "if-unmodified-since";
  const sinceMs = dateOf(headers, field);
  // Ignored where it is no date, or where there is no date to compare with (RFC 9110 §13.1.4).
  if (sinceMs === undefined || modifiedMs === undefined) return { kind: "absent" };
  return { kind: modifiedMs <= sinceMs ? "true" : "false", field };
}

/** Step 3: `If-None-Match`. */
function evaluateNoneMatch(
  headers: HeaderFields,
  { exists, tag }: State,
  isRead: boolean,
): Condition {
  const noneMatch = evaluateTags(headers, "if-none-match", (unwanted) =>
    unwanted === "*"
      ? !exists
      : tag === undefined || !unwanted.some((one) => matchesWeakly(one, tag)),
  );
  // It guards nothing on a read: it saves bytes, and the client gets all of them.
  if (noneMatch.kind === "malformed" && isRead) return { kind: "true", field: "if-none-match" };
  return noneMatch;
}

function evaluateTags(
  headers: HeaderFields,
  field: "if-match" | "if-none-match",
  isTrue: (tags: EntityTagList) => boolean,
): Condition {
  const value = fieldOf(headers, field);
  if (value === undefined) return { kind: "absent" };
  const parsed = parseEntityTags(value);
  if (parsed.kind === "malformed") return { kind: "malformed", field, reason: parsed.reason };
  return { kind: isTrue(parsed.tags) ? "true" : "false", field };
}

/** Step 4: whether `If-Modified-Since` is false. */
function isUnmodified(headers: HeaderFields, { modifiedMs }: State): boolean {
  const sinceMs = dateOf(headers, "if-modified-since");
  return sinceMs !== undefined && modifiedMs !== undefined && modifiedMs <= sinceMs;
}

/**
 * Step 5. A date in `If-Range` counts as no match: it would have to be known that nothing changed
 * twice in its second (RFC 9110 §8.8.2.2), and sending the whole is always right.
 */
function ignoresRange(method: string, headers: HeaderFields, { tag }: State): boolean {
  if (method !== "GET" || fieldOf(headers, "range") === undefined) return false;
  const value = fieldOf(headers, "if-range");
  if (value === undefined) return false;
  const wanted = parseEntityTag(trimmed(value));
  return wanted === undefined || tag === undefined || !matchesStrongly(wanted, tag);
}

function refused(
  field: PreconditionField,
  method: string,
  { exists }: State,
  isRead: boolean,
  { alreadyApplied }: PreconditionOptions,
): Verdict {
  if (isRead) return { kind: "failed", field };
  const isGone = method === "DELETE" && !exists;
  if (isGone || alreadyApplied?.()) return { kind: "already-applied", field };
  return { kind: "failed", field };
}

function isGuarded(guard: Condition, noneMatch: Condition, { tag }: State): boolean {
  if (noneMatch.kind !== "absent") return true;
  if (guard.kind === "absent") return false;
  return "field" in guard && (guard.field === "if-match" || tag === undefined);
}

/** Nothing where it is no HTTP date, a list of dates included. */
function dateOf(headers: HeaderFields, name: PreconditionField): number | undefined {
  const value = fieldOf(headers, name);
  return value === undefined ? undefined : parseHttpDate(trimmed(value), Date.now());
}

/** A field's value; the lines of a repeated field make one list (RFC 9110 §5.2). */
function fieldOf(headers: HeaderFields, name: string): string | undefined {
  if (typeof headers["get"] === "function") {
    return (headers as { get(name: string): string | null }).get(name) ?? undefined;
  }
  const lines = Object.entries(headers)
    .filter(([given, value]) => value !== undefined && given.toLowerCase() === name)
    .flatMap(([, value]) => value as string | string[]);
  return lines.length === 0 ? undefined : lines.join(", ");
}
