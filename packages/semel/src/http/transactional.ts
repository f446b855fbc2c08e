// Handlers whose writes and whose response are one transaction, for every framework (HTTP-16): the
// response is stored in it, and leaves after the commit.

import type { OperationRequest } from "../engine/admission.ts";
import type { Operation } from "../engine/attempt.ts";
import type { RecordEffect } from "../engine/effects/effects.ts";
import type { Idempotency } from "../engine/idempotency.ts";
import { assertIdempotency } from "../engine/settings.ts";
import type { Step } from "../engine/step.ts";
import { InvalidOption, isSemelError } from "../errors.ts";
import { type Answer, executedHeaders, HttpLayer, type HttpOperation } from "./exchange.ts";
import type { HttpOptions } from "./options.ts";
import { type HttpResponse, storedResponse } from "./response.ts";

/** Makes the response; called again when the database asks for the transaction to be repeated. */
export type MakeResponse<Transaction> = (
  transaction: Transaction,
  operation: HttpOperation | undefined,
) => Promise<HttpResponse>;

/**
 * The HTTP layer of a transactional route.
 *
 * @throws {InvalidOption} when an option is unknown or out of bounds, or the store has no transactions
 */
export function transactionalLayer<Request>(
  // biome-ignore lint/suspicious/noExplicitAny: whatever its transactions are
  idempotency: Idempotency<any>,
  options: HttpOptions<Request>,
  handler: unknown,
): HttpLayer<Request> {
  assertIdempotency(idempotency);
  if (typeof handler !== "function") throw new InvalidOption("transactional() takes a handler");
  idempotency.assertTransactional();
  // The database undoes what a crashed attempt began.
  return new HttpLayer(idempotency, { ...options, onCrash: "rerun" });
}

/**
 * Makes a response in a transaction and commits it.
 *
 * @param request the operation; `undefined`: the request carries no key, and nothing is recorded
 * @param assertRepeatable throws a {@link SemelError} when `make` cannot be called again
 * @returns how the response leaves
 * @throws what `make` throws, after the rollback
 */
export async function makeInTransaction<Request, Transaction>(
  layer: HttpLayer<Request>,
  request: OperationRequest | undefined,
  make: MakeResponse<Transaction>,
  assertRepeatable: () => void = () => {},
): Promise<Answer> {
  let tries = 0;
  let failure: { error: unknown } | undefined;
  const watched: MakeResponse<Transaction> = async (...given) => {
    failure = undefined;
    if (tries++ > 0) assertRepeatable();
    try {
      return await make(...given);
    } catch (error) {
      failure = { error };
      throw error;
    }
  };
  try {
    if (request === undefined) return await unrecorded(layer, watched);
    return await recorded(layer, request, watched);
  } catch (error) {
    if (failure?.error === error || !isSemelError(error)) throw error;
    return { replacement: layer.problem(error, { nothingRan: tries === 0 }) };
  }
}

async function unrecorded<Request, Transaction>(
  layer: HttpLayer<Request>,
  make: MakeResponse<Transaction>,
): Promise<Answer> {
  const idempotency = layer.idempotency as Idempotency<Transaction>;
  try {
    await idempotency.inTransaction(async (transaction) => {
      const response = await make(transaction, undefined);
      if (!layer.isStored(response)) throw new NotStored(response);
    });
  } catch (error) {
    if (!(error instanceof NotStored)) throw error;
  }
  return { headers: [] };
}

async function recorded<Request, Transaction>(
  layer: HttpLayer<Request>,
  request: OperationRequest,
  make: MakeResponse<Transaction>,
): Promise<Answer> {
  const idempotency = layer.idempotency as Idempotency<Transaction>;
  const { onError, retentionMs } = request.policy;
  const resultOf = (response: HttpResponse) => {
    const whole = response.body.byteLength <= layer.resultBytesMax;
    return storedResponse(response, whole, layer.policy.storesHeader).result;
  };
  const isKept = ({ isNotApplied }: NotStored) => onError === "store" && !isNotApplied;
  try {
    const performed = await idempotency.transact<HttpResponse>(request, {
      async make(transaction, attempt) {
        const operation = new TransactionOperation(attempt);
        const response = await make(transaction, operation);
        const { isNotApplied } = operation;
        if (isNotApplied || !layer.isStored(response)) throw new NotStored(response, isNotApplied);
        return { value: response, result: resultOf(response) };
      },
      failure: (error) =>
        error instanceof NotStored && isKept(error) ? resultOf(error.response) : undefined,
    });
    if (performed.kind !== "made") return { replacement: layer.answer(performed) };
    return {
      headers: executedHeaders("complete", { kind: "settled", expiresInMs: retentionMs }),
    };
  } catch (error) {
    if (!(error instanceof NotStored)) throw error;
    const end = isKept(error) ? "complete" : "release";
    return { headers: executedHeaders(end, { kind: "settled", expiresInMs: retentionMs }) };
  }
}

/** Rolls back, where the handler's answer says that it is no result. */
class NotStored extends Error {
  readonly response: HttpResponse;
  readonly isNotApplied: boolean;

  constructor(response: HttpResponse, isNotApplied = false) {
    super(`a response with status ${response.status} is not stored`);
    this.response = response;
    this.isNotApplied = isNotApplied;
  }
}

/** The operation as its handler sees it. */
class TransactionOperation implements HttpOperation {
  readonly #operation: Operation;
  isNotApplied = false;

  constructor(operation: Operation) {
    this.#operation = operation;
  }

  get key(): string {
    return this.#operation.key;
  }

  get scope(): string {
    return this.#operation.scope;
  }

  get attempt(): number {
    return this.#operation.attempt;
  }

  get signal(): AbortSignal {
    return this.#operation.signal;
  }

  get step(): Step {
    return this.#operation.step;
  }

  get effect(): RecordEffect {
    return this.#operation.effect;
  }

  notApplied(): void {
    this.isNotApplied = true;
  }

  hold(reason: string): void {
    this.#operation.hold(reason);
  }

  unknown(reason: string): void {
    this.hold(reason);
  }
}
