// One keyed HTTP request from key to answer, for every framework: who it belongs to, whether it runs,
// and what its response becomes. Adapters only carry requests in and responses out.

import type { Admission, OperationRequest } from "../engine/admission.ts";
import type { Attempt, AttemptEnd, Operation, Settlement } from "../engine/attempt.ts";
import type { RecordEffect } from "../engine/effects/effects.ts";
import type { StoredResult } from "../engine/envelope.ts";
import {
  endAfterError,
  failureResult,
  OF_ANOTHER_KIND,
  refusal,
  storedFailure,
} from "../engine/execution.ts";
import type { Idempotency } from "../engine/idempotency.ts";
import { assertIdempotency } from "../engine/settings.ts";
import type { Step } from "../engine/step.ts";
import {
  AttemptSuperseded,
  type ErrorCode,
  InvalidOption,
  isSemelError,
  KeyInvalid,
  KeyMissing,
  NotApplied,
  OperationFailed,
  OperationHeld,
  ResultNotStored,
  ScopeMissing,
  type SemelError,
  StoreUnusable,
} from "../errors.ts";
import { assertKey, assertNotReserved } from "../key.ts";
import type { Body } from "./body-fingerprint.ts";
import { keyFromHeader } from "./key-header.ts";
import { type HttpOptions, type HttpPolicy, httpPolicy } from "./options.ts";
import { type ProblemOptions, problemResponse } from "./problem.ts";
import {
  eachField,
  type HttpResponse,
  httpResult,
  isStoredByDefault,
  type MadeResponse,
  responseOf,
  storedResponse,
} from "./response.ts";
import { turnEnd } from "./turn.ts";

/** What an adapter knows of a request. */
export interface IncomingRequest<Request> {
  /** The framework's own request, for the user's functions. */
  request: Request;
  method: string;
  /** Path and query as the client sent them, also under a mounted router. */
  target: string;
  /** Every field line of a header. */
  headerLines(name: string): readonly string[];
  /**
   * The body, and the handler can still read it afterwards.
   *
   * @throws {BodyTooLarge} beyond the bound
   * @throws {BodyIncomplete} when the client stopped half-way
   */
  body(bytesMax: number): Body | Promise<Body>;
}

/** What happens to a request. */
export type Decision =
  /** It carries no key that counts: let it through untouched. */
  | { kind: "pass" }
  | { kind: "respond"; response: HttpResponse }
  | { kind: "run"; exchange: Exchange };

/** What a request is. */
export type Identity =
  | Extract<Decision, { kind: "pass" | "respond" }>
  | { kind: "operation"; request: OperationRequest };

const PASS = { kind: "pass" } as const;

/** What a handler may do with the operation that its request is (HTTP-15). */
export interface HttpOperation extends Operation {
  /** Proves that nothing was applied: whatever the response, the key may run again. */
  notApplied(): void;
  /**
   * Says that nobody knows whether it was applied. As {@link hold}, unless `onCrash` is a probe: then
   * its lease lapses, and the next request with this key has the probe find out.
   */
  unknown(reason: string): void;
}

/** The HTTP layer of one route, independent of any framework. */
export class HttpLayer<Request> {
  readonly policy: HttpPolicy<Request>;
  readonly #idempotency: Idempotency;

  /** @throws {InvalidOption} */
  constructor(idempotency: Idempotency, options: HttpOptions<Request>) {
    assertIdempotency(idempotency);
    this.#idempotency = idempotency;
    this.policy = httpPolicy(idempotency, options);
  }

  get idempotency(): Idempotency {
    return this.#idempotency;
  }

  /** Larger results are not kept here. */
  get resultBytesMax(): number {
    return Math.min(this.policy.resultBytesMax, this.#idempotency.maxResultBytes);
  }

  /**
   * Decides about a request. Errors of the protocol become responses; an error of the user's own
   * functions (`scope`, `key`, …) is thrown for the framework to handle.
   */
  async decide(incoming: IncomingRequest<Request>): Promise<Decision> {
    try {
      const key = this.#key(incoming);
      if (key === undefined) return PASS;
      // Not by way of `identify`, whose promise would cost more than all that it does.
      const scope = await this.#scope(incoming.request);
      const body = incoming.body(this.policy.bodyBytesMax);
      const read = body instanceof Promise ? await body : body;
      const request = this.#operationRequest(incoming, key, scope, read);
      const admission = await this.#idempotency.begin(request);
      if (admission.kind !== "run") return { kind: "respond", response: this.answer(admission) };
      const exchange = new Exchange(this, this.#idempotency, request, admission.attempt);
      return { kind: "run", exchange };
    } catch (error) {
      return this.#refusal(error);
    }
  }

  /** Which operation a request is, if it is one; nothing is asked of the store. */
  async identify(incoming: IncomingRequest<Request>): Promise<Identity> {
    try {
      const key = this.#key(incoming);
      if (key === undefined) return PASS;
      const scope = await this.#scope(incoming.request);
      const body = await incoming.body(this.policy.bodyBytesMax);
      const request = this.#operationRequest(incoming, key, scope, body);
      return { kind: "operation", request };
    } catch (error) {
      return this.#refusal(error);
    }
  }

  /** Of what has not run yet. @throws what is not Semel's own, or what the application has to hear of */
  #refusal(error: unknown): Extract<Decision, { kind: "respond" }> {
    if (!isSemelError(error) || error instanceof InvalidOption) throw error;
    return { kind: "respond", response: this.problem(error, { nothingRan: true }) };
  }

  #operationRequest(
    incoming: IncomingRequest<Request>,
    key: string,
    scope: string,
    body: Body,
  ): OperationRequest {
    const { policy } = this;
    const { method, target } = incoming;
    const contentType = incoming.headerLines("content-type")[0];
    return this.#idempotency.request({
      key,
      scope,
      fingerprint: policy.fingerprint({ method, target, contentType }, body),
      policy: policy.operation,
      resultKind: "http",
      encode: encodeResponse,
      firstSentAt: firstSentAt(incoming.headerLines("repeatability-first-sent")[0]),
    });
  }

  /** The key, where one counts. */
  #key(incoming: IncomingRequest<Request>): string | undefined {
    const { policy } = this;
    const { method } = incoming;
    if (!policy.methods.has(method)) return undefined;
    const key = policy.key
      ? policy.key(incoming.request)
      : keyFromHeader(incoming.headerLines(policy.headerField), policy.headerName, policy.strict);
    if (key === undefined) {
      if (!policy.required) return undefined;
      throw new KeyMissing(
        `${method} needs a key here: send ${policy.headerName} with a fresh UUID, and the same one when you retry`,
      );
    }
    assertKey(key);
    if (policy.hasKeyFormat(key)) return key;
    throw new KeyInvalid(`The key in ${policy.headerName} does not have the form asked for here`);
  }

  #scope(request: Request): string | Promise<string> {
    const { scope } = this.policy;
    if (scope === "shared") return "";
    const named = scope(request);
    const isLater = typeof named === "object" && named !== null;
    return isLater ? Promise.resolve(named).then(assertedScope) : assertedScope(named);
  }

  /** The response for a request that does not run. */
  answer(admission: Exclude<Admission, { kind: "run" }>): HttpResponse {
    if (admission.kind !== "replay") return this.problem(refusal(admission));
    const { result, expiresInMs } = admission;
    const expires = expiresHeader(expiresInMs);
    if (result.kind === "failure") {
      return withHeader(this.problem(new OperationFailed(storedFailure(result))), expires);
    }
    if (result.kind !== "http") {
      return withHeader(this.problem(new ResultNotStored(OF_ANOTHER_KIND)), expires);
    }
    if (result.omitted) {
      const isBare = result.bytes.byteLength === 0;
      const members = isBare ? {} : { originalStatus: responseOf(result).status };
      return withHeader(this.problem(new ResultNotStored(), { members }), expires);
    }
    const { status, headers, cors, body } = responseOf(result);
    const allowed = this.policy.replaysCors ? cors : [];
    return { status, headers: headers.concat(allowed, REPLAYED, [expires]), body };
  }

  /** Whether a response becomes the result of its operation (HTTP-12). */
  isStored({ status, headers }: Omit<HttpResponse, "body">): boolean {
    const { shouldStore } = this.policy;
    if (shouldStore === undefined) return isStoredByDefault(status);
    const fields: Record<string, string | string[]> = Object.create(null);
    eachField(headers, (name, value) => {
      fields[name] = value;
    });
    try {
      return shouldStore({ status, headers: fields });
    } catch (error) {
      // The handler ran; a bug in the rule must not undo that.
      warnOnce(`\`shouldStore\` threw, so the default rule decided: ${error}`, "option-invalid");
      return isStoredByDefault(status);
    }
  }

  problem(error: SemelError, options: Omit<ProblemOptions, "documentation"> = {}): HttpResponse {
    if (error instanceof StoreUnusable) warnOnce(error.message, error.code);
    return problemResponse(error, { ...options, documentation: this.policy.documentation });
  }
}

function assertedScope(named: string | null | undefined): string {
  if (named !== undefined && named !== null && named !== "") {
    assertNotReserved(named);
    return named;
  }
  throw new ScopeMissing("It is not known whose key this is; authenticate first. Nothing ran");
}

function encodeResponse(value: unknown): StoredResult {
  return httpResult(value as Partial<HttpResponse>);
}

const REPLAYED = [
  ["idempotent-replayed", "true"],
  ["idempotency-status", "replayed"],
] as const;

/** A request that runs: it ends by its response, or by the handler's failure. */
export class Exchange implements HttpOperation {
  readonly isBuffered = false;
  isHandling: boolean | undefined = undefined;
  isByHandler = false;
  readonly #layer: HttpLayer<never>;
  readonly #idempotency: Idempotency;
  readonly #request: OperationRequest;
  readonly #attempt: Attempt;
  #declared: AttemptEnd | Leave | undefined;
  #failure: { error: unknown } | undefined;
  /** Called when the handler has failed. */
  onFailed: (() => void) | undefined;

  constructor(
    layer: HttpLayer<never>,
    idempotency: Idempotency,
    request: OperationRequest,
    attempt: Attempt,
  ) {
    this.#layer = layer;
    this.#idempotency = idempotency;
    this.#request = request;
    this.#attempt = attempt;
  }

  get key(): string {
    return this.#attempt.key;
  }

  get scope(): string {
    return this.#attempt.scope;
  }

  get attempt(): number {
    return this.#attempt.attempt;
  }

  get signal(): AbortSignal {
    return this.#attempt.signal;
  }

  get step(): Step {
    return this.#attempt.step;
  }

  get effect(): RecordEffect {
    return this.#attempt.effect;
  }

  /** Whether a probe can find out what nobody knows. */
  get hasProbe(): boolean {
    return this.#request.policy.onCrash === "probe";
  }

  /** How long the store gives a silent handler; adapters use it as their grace. */
  get leaseMs(): number {
    return this.#attempt.leaseMs;
  }

  /** Bodies are collected up to here; larger ones pass through and are not kept (ST-10). */
  get resultBytesMax(): number {
    return this.#layer.resultBytesMax;
  }

  /** Calls the handler, in the context of whoever wants to know what runs within. */
  calling<Returned>(handler: () => Returned): Returned {
    return this.#attempt.calling(handler);
  }

  notApplied(): void {
    this.#declared = { kind: "release" };
  }

  hold(reason: string): void {
    this.#declared = { kind: "hold", reason };
  }

  unknown(reason: string): void {
    this.#declared = { kind: this.hasProbe ? "leave" : "hold", reason };
  }

  /** What the handler threw, if it did. */
  get failure(): { error: unknown } | undefined {
    return this.#failure;
  }

  /**
   * Says that the handler threw. Its operation ends by the response that the framework makes of it;
   * a response that had begun before cannot become a result any more.
   */
  failed(error: unknown): void {
    if (error instanceof NotApplied) this.notApplied();
    this.#failure ??= { error };
    this.onFailed?.();
  }

  /**
   * The headers that a response carries when its head must leave before it is settled.
   *
   * @param head status and headers of the response
   */
  streamingHeaders(head: Omit<HttpResponse, "body">): HttpResponse["headers"] {
    const { kind } = this.#endBy({ ...head, body: EMPTY }, false);
    const { retentionMs } = this.#request.policy;
    return executedHeaders(kind, { kind: "settled", expiresInMs: retentionMs });
  }

  /**
   * Ends the operation by its response. When it returns, the outcome is durable and the response
   * may leave (SM-21).
   *
   * @param whole false when the body was larger than is kept
   * @returns headers to add, or, when another attempt took over, the response to send instead
   */
  respond(response: MadeResponse, whole: boolean): Promise<Answer> {
    const end = this.#endBy(response, whole);
    if (!this.isByHandler && this.#isPremature(end)) {
      return this.#awaitHandler().then(() => this.respond(response, whole));
    }
    const concluded = this.#concluded(end);
    if (concluded !== undefined) return concluded.then((refusal) => this.#end(end, refusal));
    // Nearly always there is nothing to wait for: no steps, and no failure.
    return this.#end(end, undefined);
  }

  #end(end: AttemptEnd | Leave, refusal: SemelError | undefined): Promise<Answer> {
    const failure = this.#failedBefore;
    return failure ? this.#endFailed(failure, refusal) : this.#answer(end, refusal);
  }

  /** What an earlier attempt failed with for good, where no hold stands against that as an end. */
  get #failedBefore(): Error | undefined {
    const isHeld = this.#declared !== undefined && this.#declared.kind !== "release";
    return isHeld ? undefined : this.#attempt.failure;
  }

  /** Whatever the response is: what an earlier attempt began to undo is no success any more. */
  async #endFailed(failure: Error, refusal: SemelError | undefined): Promise<Answer> {
    await this.#attempt.undoOrHold(failure);
    const { heldBecause } = this.#attempt;
    const held = heldBecause === undefined ? undefined : new OperationHeld(heldBecause);
    const end = { kind: "complete", result: failureResult(failure) } as const;
    return this.#answer(end, refusal ?? held ?? new OperationFailed(failure));
  }

  #answer(end: AttemptEnd | Leave, refusal: SemelError | undefined): Promise<Answer> {
    return this.#settle(end).then((settlement) => {
      if (settlement.kind === "superseded") return this.#replacement(settlement);
      if (refusal) return { replacement: this.#layer.problem(refusal) };
      // Not always as it was asked to: what its steps did may have to be looked at.
      return { headers: executedHeaders(this.#attempt.end?.kind ?? end.kind, settlement) };
    });
  }

  /** What the steps have against this end; the failed operation's are undone. */
  #concluded(end: AttemptEnd | Leave): Promise<SemelError | undefined> | undefined {
    if (this.#failure === undefined) return this.#attempt.conclude()?.then(nothing, refusalOf);
    if (end.kind !== "complete" || this.#failedBefore) return undefined;
    return this.#attempt.undoOrHold(this.#failure.error).then(nothing, refusalOf);
  }

  /** Ends the operation by an error of its handler, which the framework answers. */
  async fail(error: unknown): Promise<void> {
    const failure = this.#failedBefore;
    if (failure) {
      await this.#endFailed(failure, undefined);
      return;
    }
    if (this.#isPremature(this.#declared ?? endAfterError(this.#request.policy, error))) {
      await this.#awaitHandler();
    }
    const end = this.#declared ?? endAfterError(this.#request.policy, error);
    if (end.kind === "complete") await this.#attempt.undoOrHold(error);
    await this.#settle(end);
  }

  /** Somebody else has answered for the handler, and nobody knows what it came to. */
  async overtaken(): Promise<void> {
    if (this.#declared === undefined) this.unknown(TIMEOUT);
    await this.broken(TIMEOUT);
  }

  /** The response broke half-way: nobody has its end, and it is no result. */
  async broken(reason: string): Promise<void> {
    await this.#settle(this.#declared ?? { kind: "hold", reason });
  }

  /** Whether the key could run again while its handler is still at work: somebody else gave it up. */
  #isPremature({ kind }: AttemptEnd | Leave): boolean {
    return kind === "release" && this.isHandling === true && this.#declared === undefined;
  }

  /** A handler that has answered by itself has ended with this turn. Nobody knows what another one does yet. */
  async #awaitHandler(): Promise<void> {
    await turnEnd();
    if (this.isHandling) this.unknown(TIMEOUT);
    this.isHandling = false;
  }

  #settle(end: AttemptEnd | Leave): Promise<Settlement> {
    return end.kind === "leave" ? this.#attempt.leave(end.reason) : this.#attempt.settle(end);
  }

  #endBy(response: MadeResponse, whole: boolean): AttemptEnd | Leave {
    if (this.#declared) return this.#declared;
    if (!this.#layer.isStored(response)) {
      const { onError } = this.#request.policy;
      if (onError === "release") return { kind: "release" };
      if (onError === "hold") return { kind: "hold", reason: `status-${response.status}` };
    }
    return {
      kind: "complete",
      ...storedResponse(response, whole, this.#layer.policy.storesHeader),
    };
  }

  async #replacement(settlement: Settlement): Promise<Answer> {
    try {
      const admission = await this.#idempotency.successor(settlement, this.#request);
      if (admission && admission.kind !== "run") {
        return { replacement: this.#layer.answer(admission) };
      }
      return { replacement: this.#layer.problem(new AttemptSuperseded()) };
    } catch (error) {
      const stated = isSemelError(error) ? error : new AttemptSuperseded();
      return { replacement: this.#layer.problem(stated) };
    }
  }
}

/** The attempt ends as by a crash. */
type Leave = { kind: "leave"; reason: string };

/** How the response of an attempt leaves: with more headers, or another one in its stead. */
export type Answer = { headers: HttpResponse["headers"] } | { replacement: HttpResponse };

const EMPTY = new Uint8Array(0);

/** Why an operation is held that somebody gave up while its handler was at work. */
const TIMEOUT = "handler-timeout";

function nothing(): undefined {}

function refusalOf(error: unknown): SemelError {
  return isSemelError(error) ? error : new OperationHeld("step-unawaited");
}

export function executedHeaders(
  end: AttemptEnd["kind"] | "leave",
  settlement: Settlement,
): HttpResponse["headers"] {
  if (end === "leave") return [["idempotency-status", "unknown"]];
  if (settlement.kind !== "settled") return [["idempotency-status", "unrecorded"]];
  if (end === "release") return [["idempotency-status", "released"]];
  if (end === "hold") return [["idempotency-status", "unknown"]];
  return [["idempotency-status", "executed"], expiresHeader(settlement.expiresInMs ?? 0)];
}

/** When the key is forgotten, as an HTTP date (RFC 9110 §5.6.7), like `Expires`. */
function expiresHeader(expiresInMs: number): [string, string] {
  const second = Math.floor((Date.now() + expiresInMs) / 1_000);
  if (second !== lastExpiry.second) {
    lastExpiry = { second, text: new Date(second * 1_000).toUTCString() };
  }
  return ["idempotency-expires", lastExpiry.text];
}

/** Dates cost more to write than all other headers together, and most answers share theirs. */
let lastExpiry = { second: Number.NaN, text: "" };

/** OASIS Repeatable Requests: an HTTP date. One that is none is ignored, as unknown times are. */
function firstSentAt(line: string | undefined): number | undefined {
  if (line === undefined) return undefined;
  const at = Date.parse(line);
  return Number.isNaN(at) ? undefined : at;
}

const warned = new Set<string>();

/** Clients are told little; whoever runs the server has to know what to do. */
function warnOnce(message: string, code: ErrorCode): void {
  if (warned.has(message) || warned.size > 100) return;
  warned.add(message);
  process.emitWarning(message, { type: "SemelWarning", code });
}

function withHeader(response: HttpResponse, header: HttpResponse["headers"][number]): HttpResponse {
  return { ...response, headers: [...response.headers, header] };
}
