// Durable operations (EN-7): what was asked for is kept before anything is done, so that any process
// can finish what a crashed one began. The record of the operation is the truth; the item in the queue
// only says that somebody must look after it.

import type { Codec } from "../../codec.ts";
import { type Duration, durationMs } from "../../duration.ts";
import {
  isSemelError,
  KeyReused,
  OperationBusy,
  OperationHeld,
  StoreUnavailable,
} from "../../errors.ts";
import { publish } from "../../events.ts";
import { isComparable } from "../../fingerprint.ts";
import { scopeOf } from "../../key.ts";
import { assertKnownOptions, assertMethods } from "../../options.ts";
import { pause, untilAborted } from "../../retry.ts";
import type { RecordId, Store, StoredItem, StoredRecord, StoreQueue } from "../../store.ts";
import type { Admission, OperationRequest } from "../admission.ts";
import { withoutQueue } from "../effects/effects.ts";
import { type Outcome, outcomeOf, refusal } from "../execution.ts";
import { persist } from "../persist.ts";
import type { Policy } from "../policy.ts";
import type { Contents } from "../queue/contents.ts";
import type { PollerHost } from "../queue/poller.ts";
import { retryAfterMs } from "../queue/retrying.ts";
import { attemptDurable, failureOf } from "./attempts.ts";
import { type Definition, durableScope, encodedInput, validated } from "./definition.ts";
import { type DurableStatus, durableStatus } from "./status.ts";
import { type Tasks, taskIdOf } from "./tasks.ts";

/** Which durable operation of its name. */
export interface DurableName {
  /** 1 to 255 printable ASCII characters. It may be that of a request: they do not share a record. */
  key: string;
  /** One that is there and `undefined` is refused. @default "" when left out */
  scope?: string;
}

/** A request to have a durable operation done. */
export type DurableRequest<Input> = DurableName &
  (undefined extends Input ? { input?: Input } : { input: Input });

export interface WaitOptions {
  /**
   * How long to wait for others, and between attempts that fail; an attempt that runs here is waited
   * for to its end. @default "30s"
   */
  wait?: Duration;
  /** Ends the caller's wait; the operation goes on. */
  signal?: AbortSignal;
}

/** What became of asking for it. */
export interface Started {
  /** Whether it was asked for the first time. */
  started: boolean;
  status: "waiting" | "running" | "completed" | "failed";
}

/** What durable operations need of the engine. */
export interface DurableHost extends PollerHost {
  readonly store: Store;
  readonly codec: Codec;
  readonly contents: Contents;
  readonly maxResultBytes: number;
  readonly tasks: Tasks;
  request(asked: {
    key: string;
    scope: string;
    handlerScope: string;
    fingerprint: string;
    policy: Policy;
  }): OperationRequest;
  begin(request: OperationRequest): Promise<Admission>;
  /** What a record answers a request with; `undefined` when it does not stand in its way. */
  view(record: StoredRecord, request: OperationRequest): Promise<Admission | undefined>;
  read(id: RecordId): Promise<StoredRecord | undefined>;
}

/** What was asked for, checked. */
interface Asked {
  readonly request: OperationRequest;
  readonly scope: string;
  readonly fingerprint: string;
  readonly input: Uint8Array;
}

const REQUEST_FIELDS = ["key", "scope", "input"];
const SIGNAL_METHODS = ["addEventListener", "removeEventListener", "throwIfAborted"];

/** A durable operation, by {@link Idempotency.operation}. */
export class DurableOperation<Input = unknown, Value = unknown> {
  readonly name: string;
  /** @internal */
  readonly definition: Definition;
  /** For its type alone. @internal */
  declare readonly types?: { input: Input; value: Value };
  readonly #host: DurableHost;

  /** @internal */
  constructor(host: DurableHost, definition: Definition) {
    this.#host = host;
    this.definition = definition;
    this.name = definition.name;
    host.contents.assertUsable(`Operation "${this.name}"`);
    if (host.store.queue === undefined) throw withoutQueue(host.store);
  }

  /**
   * Has it done by a worker, and returns as soon as that is kept.
   *
   * @throws {KeyReused} for another input; {@link PayloadInvalid} for one that the schema refuses;
   * {@link OperationHeld}, {@link OperationVoid}, {@link StoreUnavailable}
   * @example
   * const { started } = await ride.start({ key: request.id, scope: rider.id, input: { from, to } });
   */
  async start(request: DurableRequest<Input>): Promise<Started> {
    const asked = await this.#asked(request, REQUEST_FIELDS, "start()");
    const stands = await this.#standing(asked);
    if (stands?.kind === "replay") {
      const isFailure = stands.result.kind === "failure";
      return { started: false, status: isFailure ? "failed" : "completed" };
    }
    const { isOwn, item } = await this.#keep(asked, 0);
    if (item?.state === "dead" && (await this.#queue.revive(item.id))) {
      this.#host.nudges.ring("task");
    }
    return { started: isOwn, status: stands?.kind === "busy" ? "running" : "waiting" };
  }

  /**
   * Has it done, here unless another process is at it, and waits for its value. Should this process
   * die, a worker goes on.
   *
   * @throws {OperationFailed} when it has failed for good; {@link OperationBusy} when it has not ended
   * in time, with the last failure as its cause; otherwise as {@link start}
   * @example const { value } = await ride.run({ key, scope, input, wait: "1m" });
   */
  async run(request: DurableRequest<Input> & WaitOptions): Promise<Outcome<Value>> {
    const { wait = "30s", signal } = request;
    const asked = await this.#asked(request, [...REQUEST_FIELDS, "wait", "signal"], "run()");
    if (signal !== undefined) assertMethods(signal, "signal", SIGNAL_METHODS);
    const work = this.#run(asked, durationMs(wait, "wait"), signal);
    return signal ? untilAborted(work, signal) : work;
  }

  /** What has become of it, for its caller; runs nothing. */
  async status(name: DurableName): Promise<DurableStatus> {
    assertKnownOptions(name, ["key", "scope"], "status()");
    const { id } = this.#request(name.key, scopeOf(name), "");
    // In this order: what is no longer queued has ended by the time that the record is read.
    const item = await this.#queue.read(taskIdOf(id));
    const record = await this.#host.read(id);
    return durableStatus(record, item, this.#host.maxResultBytes);
  }

  /** What the engine is asked for an operation of this name. @internal */
  request(unsealed: { key: string; scope: string; fingerprint: string }): OperationRequest {
    return this.#request(unsealed.key, unsealed.scope, unsealed.fingerprint);
  }

  get #queue(): StoreQueue {
    return this.#host.store.queue!;
  }

  #request(key: string, scope: string, fingerprint: string): OperationRequest {
    const { policy } = this.definition;
    const framed = durableScope(this.name, scope);
    return this.#host.request({ key, scope: framed, handlerScope: scope, fingerprint, policy });
  }

  async #asked(
    request: DurableRequest<Input>,
    fields: readonly string[],
    where: string,
  ): Promise<Asked> {
    assertKnownOptions(request, fields, where);
    const { key, input } = request;
    const scope = scopeOf(request);
    const { codec, maxResultBytes } = this.#host;
    await validated(this.definition, input);
    const fingerprint = this.definition.fingerprint(input);
    return {
      request: this.#request(key, scope, fingerprint),
      scope,
      fingerprint,
      input: encodedInput(codec, maxResultBytes, this.name, input),
    };
  }

  /**
   * What is known of it already, if that is anything.
   *
   * @throws the refusal, when it will not be done for this request
   */
  async #standing({ request }: Asked): Promise<Admission | undefined> {
    const record = await this.#persisted(() => this.#host.store.read(request.id));
    const admission = record && (await this.#host.view(record, request));
    if (admission === undefined || admission.kind === "replay" || admission.kind === "busy") {
      return admission;
    }
    throw refusal(admission);
  }

  /**
   * Keeps what was asked for, unless it is kept already.
   *
   * @returns the item, unless it is done by now; `isOwn`: it is this request's
   * @throws {KeyReused} when another input is kept under its key
   */
  async #keep(asked: Asked, dueInMs: number): Promise<{ isOwn: boolean; item?: StoredItem }> {
    const { contents, nudges } = this.#host;
    const { id, key } = asked.request;
    const nonce = this.#host.nonce();
    const item = contents.seal({
      ...{ id: taskIdOf(id), kind: "task", name: this.name, operation: id, place: 0 },
      ...{ scope: asked.request.scope, key, shown: { scope: asked.scope, key } },
      ...{ fingerprint: asked.fingerprint, nonce, value: asked.input },
    });
    await this.#persisted(() => this.#queue.add([item], { dueInMs }));
    nudges.ring("task", dueInMs);
    const kept = await this.#persisted(() => this.#queue.read(item.id));
    if (kept === undefined) return { isOwn: false };
    const found = contents.unseal(kept);
    const { fingerprint } = found;
    if (fingerprint !== asked.fingerprint && isComparable(fingerprint, asked.fingerprint)) {
      throw new KeyReused();
    }
    const isOwn = found.nonce === nonce;
    if (isOwn) {
      const { name } = this;
      publish(() => ({ type: "task", id, item: item.id, name, outcome: "recorded" }));
    }
    return { isOwn, item: kept };
  }

  /** Asked again after a failure, as long as a caller is kept waiting by a store. */
  async #persisted<Answer>(ask: () => Promise<Answer>): Promise<Answer> {
    const { storeTimeoutMs: completionRetryMs } = this.#host;
    const asked = await persist({ ...this.#host, completionRetryMs }, ask);
    if (asked.kind === "answered") return asked.answer;
    if (isSemelError(asked.error)) throw asked.error;
    throw new StoreUnavailable("The queue could not be asked; nothing ran", { cause: asked.error });
  }

  async #run(
    asked: Asked,
    waitMs: number,
    signal: AbortSignal | undefined,
  ): Promise<Outcome<Value>> {
    const { clock, codec, random } = this.#host;
    const { policy } = this.definition;
    const deadline = clock.now() + waitMs;
    const stands = await this.#standing(asked);
    if (stands?.kind === "replay") return outcomeOf<Value>(stands, codec);
    // Others look after it once this process could have died.
    const { item } = await this.#keep(asked, policy.leaseMs);
    for (let failures = 1; ; failures++) {
      const remainingMs = Math.max(0, deadline - clock.now());
      const request = { ...asked.request, policy: { ...policy, waitMs: remainingMs }, signal };
      const admission = await this.#host.begin(request);
      if (admission.kind !== "run") return outcomeOf<Value>(admission, codec);
      const { attempt } = admission;
      // Beyond the bound there are only those since somebody decided that it is to be tried again.
      const isAgain = attempt.attempt > this.definition.retrying.attemptsMax;
      const tries = isAgain ? (item?.started ?? 0) + failures : attempt.attempt;
      const end = await attemptDurable(this.definition, attempt, asked.input, tries, codec);
      switch (end.kind) {
        case "completed":
          await this.#host.tasks.end(asked.request.id);
          return { value: end.value as Value, replayed: false, attempt: attempt.attempt };
        case "failed":
          await this.#host.tasks.end(asked.request.id);
          throw failureOf(end.error);
        case "held":
          throw new OperationHeld(end.reason);
        case "unrecorded":
          // Hiding the true outcome would only have it done again (SM-22).
          if ("error" in end.made) throw end.made.error;
          return { value: end.made.value as Value, replayed: false, attempt: attempt.attempt };
        case "superseded":
          break;
        case "released": {
          const pauseMs = retryAfterMs(this.definition.retrying, failures, random);
          if (clock.now() + pauseMs > deadline) {
            throw new OperationBusy(pauseMs, { cause: end.error });
          }
          await pause(clock, pauseMs, signal);
        }
      }
    }
  }
}
