// Options of the client, checked once when it is made.

import type { Clock } from "../clock.ts";
import { type Duration, durationMs } from "../duration.ts";
import { InvalidOption } from "../errors.ts";
import { assertInteger, assertKnownOptions, assertMethods, assertOneOf } from "../options.ts";
import type { Backoff } from "../retry.ts";
import { type BudgetOptions, RetryBudget } from "./budget.ts";
import { clientClock } from "./clock.ts";
import type { ClientEvent } from "./events.ts";
import type { RequestIdentity } from "./keys.ts";
import { type KeyLocks, type KeyStorage, SavedKeys } from "./saved-keys.ts";

type Fetch = typeof globalThis.fetch;

/** What a key function is told of a request. */
export interface KeyedRequest extends RequestIdentity {
  headers: Headers;
}

/** How often, and how soon, a request is sent again. */
export interface RetryOptions {
  /** Attempts of one call, the first one included. @default 8 */
  attemptsMax?: number | undefined;
  /** The pause before attempt n+1 is a random part of `base · 2^(n-1)`. @default "200ms" */
  base?: Duration | undefined;
  /** The longest pause, if the server does not ask for a longer one. @default "20s" */
  cap?: Duration | undefined;
}

export interface ClientOptions {
  /** Sends the requests. @default globalThis.fetch */
  fetch?: Fetch | undefined;
  /**
   * Where keys come from: random with the time in front, random, a digest of method, URL, media type
   * and body (so that equal requests are one operation), or a function. @default "uuidv7"
   */
  key?:
    | "uuidv7"
    | "uuidv4"
    | "hash"
    | ((request: KeyedRequest) => string | Promise<string>)
    | undefined;
  /**
   * Saves each key, before the first byte is sent, under the name that the call gives its operation
   * (`idempotency: { operation }`), so that a reloaded page or a restarted job goes on with it.
   */
  storage?: KeyStorage | undefined;
  /** A lock that all users of `storage` share. @default navigator.locks in browsers, elsewhere none */
  locks?: KeyLocks | undefined;
  /** How long servers remember keys, where they do not say (`Idempotency-Expires`). @default "24h" */
  retention?: Duration | undefined;
  /** Methods that get a key. @default ["POST", "PATCH"] */
  methods?: readonly string[] | undefined;
  /** The header that carries the key. @default "Idempotency-Key" */
  header?: string | undefined;
  /**
   * `"string"` sends an RFC 9651 String (`"…"`, as the IETF draft has it), `"bare"` the key as it is,
   * for servers that know the latter only. @default "string"
   */
  syntax?: "string" | "bare" | undefined;
  retry?: RetryOptions | undefined;
  /** How long one attempt may take, with the answer as far as it is read here. @default "30s" */
  attemptTimeout?: Duration | undefined;
  /** How long a call may take with all its attempts and pauses. @default "2m" */
  deadline?: Duration | undefined;
  /** Tokens that the retries of all calls draw from; `false` for no such bound. */
  budget?: BudgetOptions | false | undefined;
  /** Bodies are held up to here, to be sent again; larger ones are refused. @default 16 MiB */
  maxRequestBytes?: number | undefined;
  /**
   * Answers to requests with a key are read up to here before the call returns, so that an answer
   * that breaks off is asked for again; what is beyond flows. @default 1 MiB
   */
  maxResponseBytes?: number | undefined;
  /** Hears of every attempt. What it throws is printed and otherwise ignored. */
  onEvent?: ((event: ClientEvent) => void) | undefined;
  /** Time, for tests. */
  clock?: Clock | undefined;
  /** Randomness of the pauses, from 0 up to 1, for tests. @default Math.random */
  random?: (() => number) | undefined;
}

const CLIENT_OPTIONS = [
  "fetch",
  "key",
  "storage",
  "locks",
  "retention",
  "methods",
  "header",
  "syntax",
  "retry",
  "attemptTimeout",
  "deadline",
  "budget",
  "maxRequestBytes",
  "maxResponseBytes",
  "onEvent",
  "clock",
  "random",
] as const satisfies readonly (keyof ClientOptions)[];

/** {@link ClientOptions}, checked and resolved. */
export interface Settings {
  readonly fetch: Fetch;
  readonly key: NonNullable<ClientOptions["key"]>;
  readonly savedKeys: SavedKeys | undefined;
  readonly methods: ReadonlySet<string>;
  readonly headerName: string;
  readonly syntax: "string" | "bare";
  readonly attemptsMax: number;
  readonly backoff: Backoff;
  readonly attemptTimeoutMs: number;
  readonly deadlineMs: number;
  readonly budget: RetryBudget;
  readonly requestBytesMax: number;
  readonly responseBytesMax: number;
  readonly emit: (event: ClientEvent) => void;
  readonly clock: Clock;
  /** Milliseconds since the Unix epoch. */
  readonly wallMs: () => number;
  readonly random: () => number;
}

const SAFE_METHODS = ["GET", "HEAD", "OPTIONS", "TRACE", "CONNECT"];
const TOKEN = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/;
const BYTES_MAX = 2 ** 31 - 1;

/**
 * Checks the options of a client.
 *
 * @throws {InvalidOption}
 */
export function settingsOf(options: ClientOptions): Settings {
  assertKnownOptions(options, CLIENT_OPTIONS, "createClient()");
  const { key = "uuidv7", syntax = "string", header = "Idempotency-Key", retry = {} } = options;
  const { clock = clientClock, budget = {}, random = Math.random } = options;
  if (typeof key !== "function") assertOneOf(key, ["uuidv7", "uuidv4", "hash"], "key");
  assertOneOf(syntax, ["string", "bare"], "syntax");
  if (!TOKEN.test(header)) throw new InvalidOption("`header` must be the name of an HTTP field");
  assertKnownOptions(retry, ["attemptsMax", "base", "cap"], "`retry`");
  const { attemptsMax = 8 } = retry;
  assertInteger(attemptsMax, "retry.attemptsMax", 1, 1_000);
  const { maxRequestBytes = 2 ** 24, maxResponseBytes = 2 ** 20 } = options;
  assertInteger(maxRequestBytes, "maxRequestBytes", 0, BYTES_MAX);
  assertInteger(maxResponseBytes, "maxResponseBytes", 0, BYTES_MAX);
  assertFunctions(options, ["fetch", "onEvent", "random"]);
  // A clock that tests move is the wall's clock as well.
  const wallMs = options.clock ? () => clock.now() : Date.now;
  return {
    fetch: options.fetch ?? ((...request) => globalThis.fetch(...request)),
    key,
    savedKeys: savedKeysOf(options, clock, wallMs),
    methods: new Set(methodsOf(options.methods ?? ["POST", "PATCH"])),
    headerName: header,
    syntax,
    attemptsMax,
    backoff: {
      baseMs: durationMs(retry.base ?? "200ms", "retry.base"),
      capMs: durationMs(retry.cap ?? "20s", "retry.cap"),
    },
    attemptTimeoutMs: durationMs(options.attemptTimeout ?? "30s", "attemptTimeout", { minMs: 1 }),
    deadlineMs: durationMs(options.deadline ?? "2m", "deadline", { minMs: 1 }),
    budget: new RetryBudget(budget),
    requestBytesMax: maxRequestBytes,
    responseBytesMax: maxResponseBytes,
    emit: emitterOf(options.onEvent),
    clock,
    wallMs,
    random,
  };
}

function assertFunctions(options: ClientOptions, names: readonly (keyof ClientOptions)[]): void {
  for (const name of names) {
    const value = options[name];
    if (value !== undefined && typeof value !== "function") {
      throw new InvalidOption(`\`${name}\` must be a function, got ${typeof value}`);
    }
  }
}

function savedKeysOf(
  options: ClientOptions,
  clock: Clock,
  wallMs: () => number,
): SavedKeys | undefined {
  const { storage, locks, retention = "24h" } = options;
  const retentionMs = durationMs(retention, "retention", { minMs: 1 });
  if (storage === undefined) {
    if (locks === undefined && options.retention === undefined) return undefined;
    throw new InvalidOption("`locks` and `retention` mean nothing without `storage`");
  }
  assertMethods(storage, "storage", ["getItem", "setItem", "removeItem"]);
  if (locks !== undefined) assertMethods(locks, "locks", ["request"]);
  return new SavedKeys({ storage, locks: locks ?? browserLocks(), retentionMs, clock, wallMs });
}

/** Node has `navigator.locks` as well, but there they bind one process only. */
function browserLocks(): KeyLocks | undefined {
  const scope = globalThis as { navigator?: { locks?: KeyLocks } };
  const isBrowser = "document" in globalThis || "WorkerGlobalScope" in globalThis;
  return isBrowser ? scope.navigator?.locks : undefined;
}

function methodsOf(methods: readonly string[]): string[] {
  if (!Array.isArray(methods)) throw new InvalidOption("`methods` must be a list of HTTP methods");
  return methods.map((method: unknown) => {
    const name = String(method).toUpperCase();
    if (TOKEN.test(name) && !SAFE_METHODS.includes(name)) return name;
    throw new InvalidOption(
      `\`methods\` holds ${JSON.stringify(method)}: keys are for unsafe methods such as POST, PATCH, PUT and DELETE`,
    );
  });
}

function emitterOf(onEvent: ClientOptions["onEvent"]): (event: ClientEvent) => void {
  if (onEvent === undefined) return () => {};
  return (event) => {
    try {
      onEvent(event);
    } catch (error) {
      // A bug in what watches must not undo a payment.
      console.error("`onEvent` of the Semel client threw", error);
    }
  };
}
