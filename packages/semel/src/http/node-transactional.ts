// Transactional handlers on `node:http`: the response is collected whole, stored in the transaction,
// and sent after the commit.

import type { IncomingMessage, ServerResponse } from "node:http";
import { systemClock } from "../clock.ts";
import { StoreUnavailable } from "../errors.ts";
import { bounded } from "../retry.ts";
import { type Answer, executedHeaders, type HttpLayer } from "./exchange.ts";
import { shareInlineCaches } from "./hidden-class.ts";
import { discardBody, hasBody, hasLeft, isConsumed } from "./node-body.ts";
import { type CapturedResponse, captureResponse, type ResponseTaker } from "./node-capture.ts";
import { incomingRequest, type NodeRequest, sendInTurn } from "./node-exchange.ts";
import { reasonOf, setReason } from "./node-headers.ts";
import { setOperation } from "./operation-of.ts";
import type { HttpResponse, MadeResponse } from "./response.ts";
import { makeInTransaction } from "./transactional.ts";

/** What differs between frameworks. */
export interface TransactionalAnswering {
  /**
   * Throws a `SemelError` when the handler cannot be called again.
   *
   * @default where the handler has read the request's stream
   */
  assertRepeatable?: () => void;
  /**
   * Sends the response of a transaction that has ended, in the framework's own way. The server's
   * response is then as it was before the handler.
   *
   * @default as the handler wrote it
   */
  deliver?: (response: HttpResponse) => void;
}

/**
 * Answers a request by a handler in a transaction.
 *
 * @param handle runs the handler, which ends the response; called again when the database asks for
 * the transaction to be repeated
 * @throws what the handler throws, after the rollback. The response is then as it was before the
 * handler, and what the framework makes of the error leaves as the answer of a released key
 */
export async function answerInTransaction<Request, Transaction>(
  layer: HttpLayer<Request>,
  message: IncomingMessage,
  response: ServerResponse,
  facts: NodeRequest<Request>,
  handle: (transaction: Transaction) => unknown,
  { assertRepeatable = () => assertUnread(message, facts), deliver }: TransactionalAnswering = {},
): Promise<void> {
  const asked = await layer.identify(incomingRequest(message, response, facts));
  if (asked.kind === "respond") return sendInTurn(message, response, asked.response);
  // The client left while its body was read. Nothing ran.
  if (response.destroyed || hasLeft(message)) return;
  shareInlineCaches(message, response);
  response.once("close", () => discardBody(message));
  const taker = new BufferedTaker(response, layer.policy.operation.leaseMs);
  const request = asked.kind === "operation" ? asked.request : undefined;
  let made: HttpResponse | undefined;
  try {
    const answer = await makeInTransaction<Request, Transaction>(
      layer,
      request,
      async (transaction, operation) => {
        const ended = taker.capture();
        if (operation) setOperation(message, operation);
        await handle(transaction);
        made = await bounded(systemClock, ended, taker.leaseMs, notEnded);
        return made;
      },
      assertRepeatable,
    );
    if ("headers" in answer && deliver === undefined) return taker.leave(answer);
    taker.release();
    if ("replacement" in answer) return await sendInTurn(message, response, answer.replacement);
    deliver?.({ ...made!, headers: [...made!.headers, ...answer.headers] });
  } catch (error) {
    if (request) taker.pass({ headers: RELEASED });
    else taker.release();
    throw error;
  }
}

const RELEASED = executedHeaders("release", { kind: "settled", expiresInMs: null });

/** A handler that has read the request's stream finds nothing there the second time. */
function assertUnread<Request>(message: IncomingMessage, facts: NodeRequest<Request>): void {
  if (!hasBody(message) || !isConsumed(message) || facts.parsedBody() !== undefined) return;
  throw new StoreUnavailable(
    "The database asked for the transaction to be repeated, and the handler has read the request's stream already. Nothing was committed: try again",
  );
}

function notEnded(): Error {
  return new Error("The handler returned and its response did not end: nothing was committed");
}

/** Holds a captured response back until it is known how it leaves. */
class BufferedTaker implements ResponseTaker {
  readonly isBuffered = true;
  readonly leaseMs: number;
  readonly resultBytesMax = Number.POSITIVE_INFINITY;
  readonly failure = undefined;
  /** Whoever waits for the response waits for a lease. */
  isHandling = true;
  isByHandler = false;
  onFailed: (() => void) | undefined;
  readonly #response: ServerResponse;
  /** As it was before the handler. */
  readonly #status: { readonly code: number; readonly reason: string };
  #captured: CapturedResponse | undefined;
  #made: { resolve(response: HttpResponse): void; reject(error: unknown): void } | undefined;
  #leave: ((answer: Answer | undefined) => void) | undefined;
  #passing: Answer | undefined;

  constructor(response: ServerResponse, leaseMs: number) {
    this.#response = response;
    this.leaseMs = leaseMs;
    this.#status = { code: response.statusCode, reason: reasonOf(response) };
  }

  /** The response that is made next; what was made before never leaves. */
  capture(): Promise<HttpResponse> {
    if (this.#captured) this.#reset();
    else this.#captured = captureResponse(this.#response, this);
    const made = new Promise<HttpResponse>((resolve, reject) => {
      this.#made = { resolve, reject };
    });
    // Where the handler throws, nobody waits for it.
    made.catch(() => {});
    return made;
  }

  /** What was made leaves. */
  leave(answer: Answer): void {
    this.#leave?.(answer);
  }

  /** What was made never leaves, and the response is as it was before. */
  release(): void {
    this.#forget();
    this.#captured?.release();
    this.#restoreStatus();
  }

  /** What was made never leaves; what is made instead leaves at its end. */
  pass(answer: Answer): void {
    if (this.#response.socket?.destroyed === false) {
      this.#reset();
      this.#passing = answer;
    } else {
      // The client is gone, and nobody may end the response any more.
      this.release();
    }
  }

  #reset(): void {
    this.#forget();
    this.#captured?.reset();
    this.#restoreStatus();
  }

  #restoreStatus(): void {
    this.#response.statusCode = this.#status.code;
    setReason(this.#response, this.#status.reason);
  }

  #forget(): void {
    this.#leave?.(undefined);
    this.#leave = undefined;
  }

  streamingHeaders(): HttpResponse["headers"] {
    return [];
  }

  async respond({ status, headers, body }: MadeResponse): Promise<Answer | undefined> {
    if (this.#passing) return this.#passing;
    const bytes = typeof body === "string" ? Buffer.from(body) : body;
    this.#made?.resolve({ status, headers, body: bytes });
    return new Promise((resolve) => {
      this.#leave = resolve;
    });
  }

  async fail(error: unknown): Promise<void> {
    this.#made?.reject(error);
  }

  async broken(reason: string): Promise<void> {
    this.#made?.reject(new Error(reason));
  }
}
