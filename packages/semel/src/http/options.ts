// Options of the HTTP layer, the same for every framework, checked once when a route is set up.

import type { Idempotency } from "../engine/idempotency.ts";
import { OPERATION_OPTIONS, type OperationOptions, type Policy } from "../engine/policy.ts";
import { InvalidOption } from "../errors.ts";
import type { FingerprintSelection } from "../fingerprint.ts";
import { assertBoolean, assertInteger, assertKnownOptions, assertOneOf } from "../options.ts";
import { type BodyFingerprinter, bodyFingerprinter } from "./body-fingerprint.ts";
import type { HttpResponse } from "./response.ts";
import { headerFilter, type StoredHeaders } from "./response.ts";

/** A response as a probe or `shouldStore` names it. */
export interface ResponseHead {
  status: number;
  /** Names in lower case. */
  headers: Readonly<Record<string, string | readonly string[]>>;
}

export interface HttpOptions<Request> extends OperationOptions<Partial<HttpResponse>> {
  /**
   * Who the key belongs to: an account, a tenant, a digest of the credential. `"shared"` says that
   * all callers share one space of keys: their records have the scope `""`, by which `get()`, `void()`
   * and the command know them. There is no default, because the wrong one leaks answers.
   * A function that returns nothing means 401 `scope-missing`, and nothing runs (HTTP-4).
   */
  scope: "shared" | ((request: Request) => ScopeAnswer | Promise<ScopeAnswer>);
  /** Methods whose keys count. GET, HEAD, OPTIONS and TRACE never do. @default ["POST", "PATCH"] */
  methods?: readonly string[] | undefined;
  /** Refuses requests without a key (400 `key-missing`). @default false */
  required?: boolean | undefined;
  /** The header that carries the key. @default "Idempotency-Key" */
  header?: string | undefined;
  /** Takes the key from elsewhere, instead of the header. */
  key?: ((request: Request) => string | undefined) | undefined;
  /** `"strict"` accepts an RFC 9651 String only (`"…"`), as the IETF draft has it. @default "lenient" */
  syntax?: "lenient" | "strict" | undefined;
  /** What a key must look like beyond 1 to 255 printable ASCII characters. @default any */
  keyFormat?: "uuid" | RegExp | ((key: string) => boolean) | undefined;
  /**
   * What of the body counts: its exact bytes, its canonical JSON, parts of its JSON by JSON
   * Pointers, or what a function returns for it. Method, target and media type always count.
   * @default "bytes"
   */
  fingerprint?: "bytes" | "json" | FingerprintSelection | undefined;
  /** Bodies of keyed requests are read up to here; larger ones get 413. @default 1 MiB */
  maxBodyBytes?: number | undefined;
  /** Which responses become the result. @default 2xx, 3xx, and the 4xx that are a verdict (HTTP-12) */
  shouldStore?: ((response: ResponseHead) => boolean) | undefined;
  /** `"stripe"` stores every response of a handler that ran, 500 included. */
  semantics?: "stripe" | undefined;
  /** Larger results are not kept, at most those of `Idempotency`. @default its `maxResultBytes` */
  maxResultBytes?: number | undefined;
  /**
   * Response headers that are stored beside the usual ones (`Content-Type`, `Location`, `ETag`, …),
   * or `"*"` for all that may be. `Set-Cookie`, credentials and hop-by-hop headers never are.
   */
  storedHeaders?: "*" | readonly string[] | StoredHeaders | undefined;
  /** Address of your documentation, for `Link: <…>; rel="describedby"` in problems. */
  documentation?: string | undefined;
}

type ScopeAnswer = string | null | undefined;

export const HTTP_OPTIONS = [
  ...OPERATION_OPTIONS,
  "scope",
  "methods",
  "required",
  "header",
  "key",
  "syntax",
  "keyFormat",
  "fingerprint",
  "maxBodyBytes",
  "maxResultBytes",
  "shouldStore",
  "semantics",
  "storedHeaders",
  "documentation",
] as const;

/**
 * The options of a route, which take the place of those for all routes. What is `undefined` takes the
 * place of nothing, but for `scope`: one that is missing by mistake must not become a wider one.
 */
export function laidOver<Options extends object>(whole: Options, own: Partial<Options>): Options {
  const isGiven = ([name, value]: [string, unknown]) => value !== undefined || name === "scope";
  return { ...whole, ...Object.fromEntries(Object.entries(own).filter(isGiven)) };
}

/** {@link HttpOptions}, checked and resolved. */
export interface HttpPolicy<Request> {
  readonly scope: HttpOptions<Request>["scope"];
  readonly methods: ReadonlySet<string>;
  readonly required: boolean;
  /** As configured, for messages. */
  readonly headerName: string;
  /** The same in lower case. */
  readonly headerField: string;
  readonly key: ((request: Request) => string | undefined) | undefined;
  readonly strict: boolean;
  readonly hasKeyFormat: (key: string) => boolean;
  readonly fingerprint: BodyFingerprinter;
  readonly bodyBytesMax: number;
  readonly resultBytesMax: number;
  /** Absent: the default rule. */
  readonly shouldStore: ((response: ResponseHead) => boolean) | undefined;
  readonly storesHeader: (name: string) => boolean;
  readonly replaysCors: boolean;
  readonly documentation: string | undefined;
  readonly operation: Policy;
}

const SAFE_METHODS = new Set(["GET", "HEAD", "OPTIONS", "TRACE", "CONNECT"]);
const TOKEN = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/;
const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;

/**
 * Checks the options of a route.
 *
 * @throws {InvalidOption}
 */
export function httpPolicy<Request>(
  idempotency: Idempotency,
  options: HttpOptions<Request>,
): HttpPolicy<Request> {
  assertKnownOptions(options, HTTP_OPTIONS, "idempotent()");
  const { scope, header = "Idempotency-Key", syntax = "lenient", key, documentation } = options;
  if (scope !== "shared" && typeof scope !== "function") {
    throw new InvalidOption(
      '`scope` must be given: a function of the request that names the account or tenant whose key it is, or "shared" when all callers share one space of keys',
    );
  }
  assertOneOf(syntax, ["lenient", "strict"], "syntax");
  assertBoolean(options.required, "required");
  if (typeof header !== "string" || !TOKEN.test(header))
    throw new InvalidOption("`header` must be the name of an HTTP field");
  if (key !== undefined && typeof key !== "function") {
    throw new InvalidOption("`key` must be a function of the request");
  }
  const storedHeaders = storedHeadersOf(options.storedHeaders);
  const bodyBytesMax = options.maxBodyBytes ?? 2 ** 20;
  assertInteger(bodyBytesMax, "maxBodyBytes", 0, 2 ** 30);
  const resultBytesMax = options.maxResultBytes ?? idempotency.maxResultBytes;
  assertInteger(resultBytesMax, "maxResultBytes", 0, idempotency.maxResultBytes);
  return {
    scope,
    methods: new Set(methodsOf(options.methods ?? ["POST", "PATCH"])),
    required: options.required ?? false,
    headerName: header,
    headerField: header.toLowerCase(),
    key,
    strict: syntax === "strict",
    hasKeyFormat: keyFormat(options.keyFormat),
    fingerprint: bodyFingerprinter(options.fingerprint ?? "bytes"),
    bodyBytesMax,
    resultBytesMax,
    shouldStore: storing(options),
    storesHeader: headerFilter(storedHeaders),
    replaysCors: storedHeaders.cors ?? false,
    documentation: documentation === undefined ? undefined : checkedUrl(documentation),
    operation: idempotency.policy(ofFailures(options)),
  };
}

function methodsOf(methods: readonly string[]): string[] {
  if (!Array.isArray(methods)) throw new InvalidOption("`methods` must be a list of HTTP methods");
  return methods.map((method: unknown) => {
    const name = String(method).toUpperCase();
    if (TOKEN.test(name) && !SAFE_METHODS.has(name)) return name;
    throw new InvalidOption(
      `\`methods\` holds ${JSON.stringify(method)}: keys count on unsafe methods such as POST, PATCH, PUT and DELETE`,
    );
  });
}

function storedHeadersOf(chosen: HttpOptions<never>["storedHeaders"] = []): StoredHeaders {
  if (chosen === "*" || Array.isArray(chosen)) return { allow: chosen };
  if (typeof chosen === "object") {
    assertKnownOptions(chosen, ["allow", "deny", "cors"], "`storedHeaders`");
    return chosen as StoredHeaders;
  }
  throw new InvalidOption(
    '`storedHeaders` must be a list of header names, "*", or { allow, deny, cors }',
  );
}

function keyFormat(format: HttpOptions<never>["keyFormat"]): (key: string) => boolean {
  if (format === undefined) return () => true;
  if (typeof format === "function") return format;
  if (format === "uuid") return (key) => UUID.test(key);
  if (format instanceof RegExp) {
    // Without the flags that make a RegExp remember where it was.
    const pattern = new RegExp(format.source, format.flags.replace(/[gy]/g, ""));
    return (key) => pattern.test(key);
  }
  throw new InvalidOption('`keyFormat` must be "uuid", a RegExp or a function of the key');
}

function storing(options: HttpOptions<never>): HttpOptions<never>["shouldStore"] {
  const { shouldStore, semantics } = options;
  if (semantics !== undefined) {
    assertOneOf(semantics, ["stripe"], "semantics");
    if (shouldStore) throw new InvalidOption("Give either `semantics` or `shouldStore`, not both");
    return () => true;
  }
  if (shouldStore === undefined || typeof shouldStore === "function") return shouldStore;
  throw new InvalidOption("`shouldStore` must be a function of the response");
}

/** `"stripe"` keeps failures as well, where a framework leaves none but what was thrown. */
function ofFailures(options: HttpOptions<never>): HttpOptions<never> {
  const { semantics, onError = "store" } = options;
  return semantics === undefined ? options : { ...options, onError };
}

function checkedUrl(url: string): string {
  if (URL.canParse(url)) return new URL(url).href;
  throw new InvalidOption(`\`documentation\` must be an absolute URL, got ${JSON.stringify(url)}`);
}
