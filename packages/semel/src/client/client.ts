// The client: a function like fetch that gives each unsafe request a key, and sends it until it is
// answered.

import { InvalidOption } from "../errors.ts";
import { assertKnownOptions } from "../options.ts";
import { type Call, type Delivery, deliver } from "./call.ts";
import {
  assertClientKey,
  headerValue,
  keyOfHeader,
  requestDigest,
  uuidV4,
  uuidV7,
} from "./keys.ts";
import { Limit, unlessAborted } from "./limit.ts";
import { type ClientOptions, type Settings, settingsOf } from "./options.ts";
import {
  assertLastingBody,
  type FetchInput,
  methodOf,
  type RepeatableRequest,
  repeatable,
} from "./request.ts";
import type { SavedOperation } from "./saved-keys.ts";
import { expiresInMs, settlementOf } from "./verdict.ts";

/** What a call says of its operation. */
export interface OperationInit {
  /** The operation's key, instead of a new one: of an earlier `NoAnswer`, for example. */
  key?: string | undefined;
  /** The caller's name for the operation, under which `storage` saves its key. */
  operation?: string | undefined;
  /** Returns the answer as soon as its head is here; what breaks off after it is not retried. @default false */
  stream?: boolean | undefined;
}

/** What fetch takes, and `idempotency`. */
export interface ClientInit extends RequestInit {
  idempotency?: OperationInit | undefined;
}

/** A function like `fetch`. */
export interface Client {
  /**
   * Sends a request until it is answered or given up.
   *
   * @returns the final answer, of any status; or the last one when attempts, deadline or budget are
   * used up
   * @throws {NoAnswer} when the last attempt got no answer
   * @throws {SemelError} when nothing was sent: the key cannot be saved, the body is too large, the
   * operation's name was begun with another request, …
   * @throws the reason of `signal` when it aborts; what fetch throws for requests without a key
   */
  (input: string | URL | Request, init?: ClientInit): Promise<Response>;
  /**
   * What `storage` holds under an operation's name: something that was begun and is not settled.
   *
   * @throws {InvalidOption} without `storage`
   */
  saved(operation: string): Promise<SavedOperation | undefined>;
  /**
   * Forgets an operation's key: its outcome is noted, and the next request under the name is a new
   * operation.
   *
   * @throws {InvalidOption} without `storage`
   */
  settle(operation: string): Promise<void>;
}

/** Methods without a key that may be sent again all the same (RFC 9110 §9.2.2). */
const IDEMPOTENT_METHODS = new Set(["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"]);
const SAFE_METHODS = new Set(["GET", "HEAD", "OPTIONS", "TRACE"]);
const FIRST_SENT = "Repeatability-First-Sent";

/**
 * Makes a function like `fetch` whose requests are safe to repeat: POST and PATCH carry an
 * `Idempotency-Key`, minted once and sent with every attempt, and what got no answer, or one that
 * says "later", is sent again with identical bytes.
 *
 * @throws {InvalidOption} when an option is unknown, of the wrong type or out of bounds
 * @example
 * const client = createClient({ deadline: "30s" });
 * const response = await client("https://api.example/payments", {
 *   method: "POST",
 *   headers: { "content-type": "application/json" },
 *   body: JSON.stringify({ amount: 1200 }),
 * });
 */
export function createClient(options: ClientOptions = {}): Client {
  const settings = settingsOf(options);
  const savedKeys = () => {
    if (settings.savedKeys) return settings.savedKeys;
    throw new InvalidOption("This client saves no keys; give createClient() a `storage`");
  };
  return Object.assign(
    (input: FetchInput, init: ClientInit = {}) => request(settings, input, init),
    {
      saved: async (operation: string) => savedKeys().saved(assertName(operation)),
      settle: async (operation: string) => savedKeys().settle(assertName(operation)),
    },
  );
}

/** Aborts with the caller's signal; kept for as long as an answer flows. */
const flowing = new FinalizationRegistry<() => void>((release) => release());

async function request(
  settings: Settings,
  input: FetchInput,
  { idempotency = {}, ...init }: ClientInit,
): Promise<Response> {
  assertKnownOptions(idempotency, ["key", "operation", "stream"], "`idempotency`");
  const { signal = input instanceof Request ? input.signal : undefined, ...rest } = init;
  const limit = new Limit(settings.clock, signal ?? undefined, settings.deadlineMs, () => {
    return new DOMException(
      `\`deadline\` passed (${settings.deadlineMs} ms), and there was no answer`,
      "TimeoutError",
    );
  });
  let isFlowing = false;
  try {
    const prepared = prepare(settings, input, rest, idempotency, limit.signal);
    const call = await unlessAborted(prepared, limit.signal);
    const delivery = await deliver(settings, call, limit);
    await note(settings, call, delivery, limit.signal);
    const { body } = delivery.response;
    if (delivery.flowing && body) {
      isFlowing = true;
      limit.stopTime();
      if (signal) keepLinked(body, [limit, delivery.flowing]);
    }
    return delivery.response;
  } finally {
    if (!isFlowing) limit.release();
  }
}

/** The caller's signal ends an answer that flows, and is let go when nobody holds the answer. */
function keepLinked(body: ReadableStream, limits: readonly Limit[]): void {
  flowing.register(body, () => {
    for (const limit of limits) limit.release();
  });
}

async function prepare(
  settings: Settings,
  input: FetchInput,
  init: RequestInit,
  idempotency: OperationInit,
  signal: AbortSignal,
): Promise<Call> {
  const method = methodOf(input, init);
  const ownHeaders = new Headers(init.headers ?? (input instanceof Request ? input.headers : {}));
  const isKeyed =
    !SAFE_METHODS.has(method) &&
    (settings.methods.has(method) ||
      idempotency.key !== undefined ||
      ownHeaders.has(settings.headerName));
  const operation = isKeyed ? idempotency.operation : undefined;
  if (!isKeyed && !IDEMPOTENT_METHODS.has(method)) return once(settings, input, init, method);
  const request = await repeatable(input, init, settings.requestBytesMax);
  const { url, headers, body, hasBody } = request;
  const identity = isKeyed
    ? await identify(settings, request, idempotency, signal)
    : { key: undefined, firstSent: undefined };
  const { fetch } = settings;
  // Bytes are gone when they have been sent, on Node 20, and a redirect that keeps the method sends them again.
  const sent = hasBody ? { body: new Blob([body as Uint8Array<ArrayBuffer>]) } : {};
  return {
    subject: { method, url, key: identity.key, operation },
    firstSent: identity.firstSent,
    isRepeatable: true,
    isBuffered: isKeyed && !idempotency.stream,
    send: async (signal) =>
      fetch(input, { ...init, ...sent, headers: new Headers(headers), signal }),
  };
}

/** A request that must not be sent again, as it is: its body may flow. */
function once(settings: Settings, input: FetchInput, init: RequestInit, method: string): Call {
  const { fetch } = settings;
  const url = input instanceof Request ? input.url : String(input);
  return {
    subject: { method, url, key: undefined, operation: undefined },
    firstSent: undefined,
    isRepeatable: false,
    isBuffered: false,
    send: async (signal) => fetch(input, { ...init, signal }),
  };
}

/** Gives a request its key and the time when it was first sent, in the headers that it sends. */
async function identify(
  settings: Settings,
  request: RepeatableRequest,
  { key: givenKey, operation }: OperationInit,
  signal: AbortSignal,
): Promise<{ key: string; firstSent: string }> {
  const { headerName, syntax, savedKeys, wallMs } = settings;
  const { headers } = request;
  if (request.mode === "no-cors") {
    throw new InvalidOption(
      'Browsers drop the key from requests with `mode: "no-cors"`, which could then not be repeated. Nothing was sent',
    );
  }
  const ownHeader = headers.get(headerName);
  const ownKey = givenKey ?? (ownHeader === null ? undefined : keyOfHeader(ownHeader));
  if (givenKey !== undefined && ownHeader !== null) {
    throw new InvalidOption(`Give the key either as \`idempotency.key\` or as ${headerName}`);
  }
  let firstSent = headers.get(FIRST_SENT) ?? new Date(wallMs()).toUTCString();
  if (Number.isNaN(Date.parse(firstSent))) {
    throw new InvalidOption(`${FIRST_SENT} must be an HTTP date, got ${JSON.stringify(firstSent)}`);
  }
  let key: string;
  if (ownKey !== undefined) {
    assertClientKey(ownKey);
    key = ownKey;
  } else if (savedKeys) {
    assertLastingBody(request);
    const name = assertName(operation);
    const fingerprint = await requestDigest(request);
    const mint = () => mintKey(settings, request);
    ({ key, firstSent } = await savedKeys.claim({ name, fingerprint, mint, firstSent, signal }));
  } else {
    key = await mintKey(settings, request);
  }
  if (ownHeader === null) headers.set(headerName, headerValue(key, syntax));
  headers.set(FIRST_SENT, firstSent);
  return { key, firstSent };
}

async function mintKey(settings: Settings, request: RepeatableRequest): Promise<string> {
  const { key, wallMs } = settings;
  if (key === "uuidv7") return uuidV7(wallMs());
  if (key === "uuidv4") return uuidV4();
  if (key === "hash") {
    assertLastingBody(request);
    return requestDigest(request);
  }
  const { method, url, contentType, body, headers } = request;
  const made: unknown = await key({ method, url, contentType, body, headers });
  assertClientKey(made);
  return made;
}

function assertName(operation: unknown): string {
  if (typeof operation === "string" && operation !== "") return operation;
  throw new InvalidOption(
    'This client saves its keys (`storage`), so each request with a key needs a name for its operation: `idempotency: { operation: "order-42" }`. Nothing was sent',
  );
}

/** Notes in the storage what has become of the operation. It never costs the caller the answer. */
async function note(
  { savedKeys, emit, wallMs }: Settings,
  { subject }: Call,
  { answer, isFinal }: Delivery,
  signal: AbortSignal,
): Promise<void> {
  const { key, operation } = subject;
  if (!savedKeys || key === undefined || operation === undefined || !isFinal) return;
  const settlement = settlementOf(answer);
  try {
    if (settlement === "answered") {
      const expires = expiresInMs(answer.headers, wallMs());
      await unlessAborted(savedKeys.answered(operation, key, expires), signal);
    } else if (settlement === "unused") {
      await unlessAborted(savedKeys.unused(operation, key), signal);
    }
  } catch (error) {
    emit({ ...subject, type: "storage-failure", error });
  }
}
