// One call of the client: its attempts, the pauses between them, and its end (CL-2).

import { backoffMs, pause } from "../retry.ts";
import { type AttemptOutcome, attemptOnce, discard } from "./attempt.ts";
import { type GaveUp, NoAnswer } from "./errors.ts";
import type { ClientEvent, EventSubject } from "./events.ts";
import type { Limit } from "./limit.ts";
import type { Settings } from "./options.ts";
import { type Answer, isRetryable, retryAfterMs } from "./verdict.ts";

/** A request that is ready to be sent, once or many times. */
export interface Call {
  subject: EventSubject;
  /** `Repeatability-First-Sent`; of requests with a key. */
  firstSent: string | undefined;
  send(signal: AbortSignal): Promise<Response>;
  /** Whether it may be sent again at all. */
  isRepeatable: boolean;
  isBuffered: boolean;
}

/** How a call ended. */
export interface Delivery {
  response: Response;
  answer: Answer;
  /** Whether the server may answer the same request otherwise later. */
  isFinal: boolean;
  /** The limit of an answer that still flows. */
  flowing: Limit | undefined;
}

type EventOfCall = ClientEvent extends infer Event
  ? Event extends ClientEvent
    ? Omit<Event, keyof EventSubject>
    : never
  : never;

/**
 * Sends a request until it is answered, or given up.
 *
 * @returns the final answer, or the last one when there will be no other attempt
 * @throws {NoAnswer} when the last attempt of a request with a key got none; without a key, what
 * fetch threw
 * @throws the reason of the caller's signal
 */
export async function deliver(settings: Settings, call: Call, limit: Limit): Promise<Delivery> {
  const { clock, budget } = settings;
  const tell = (event: EventOfCall) => settings.emit({ ...call.subject, ...event } as ClientEvent);
  for (let attempt = 1; ; attempt++) {
    tell({ type: "attempt", attempt });
    const outcome = await attemptOnce(settings, call.send, call.isBuffered, limit.signal);
    if (limit.signal.aborted && !limit.isPast) {
      tell({ type: "end", attempts: attempt, reason: "aborted" });
      if (outcome.kind === "answer") abandon(outcome);
      throw limit.signal.reason;
    }
    tell(outcomeEvent(outcome, attempt));
    const isAnswered = outcome.kind === "answer" && !isRetryable(outcome.answer);
    if (isAnswered || !call.isRepeatable) {
      if (isAnswered) budget.succeeded(attempt > 1);
      const reason = outcome.kind === "answer" ? "answered" : "failed";
      tell({ type: "end", attempts: attempt, reason });
      return delivered(outcome, call, attempt, "attempts");
    }
    const { delayMs, isRetryAfter } = pauseAfter(settings, outcome, attempt);
    const gaveUp = reasonToGiveUp(settings, limit, attempt, delayMs);
    if (gaveUp) {
      tell({ type: "end", attempts: attempt, reason: gaveUp });
      return delivered(outcome, call, attempt, gaveUp);
    }
    tell({ type: "retry", attempt, delayMs, isRetryAfter });
    if (outcome.kind === "answer") abandon(outcome);
    try {
      await pause(clock, delayMs, limit.signal);
    } catch (error) {
      const reason = limit.isPast ? "deadline" : "aborted";
      tell({ type: "end", attempts: attempt, reason });
      if (reason === "aborted") throw error;
      return delivered({ kind: "failure", error }, call, attempt, reason);
    }
  }
}

function abandon({ response, limit }: AttemptOutcome & { kind: "answer" }): void {
  discard(response);
  limit.release();
}

function outcomeEvent(outcome: AttemptOutcome, attempt: number): EventOfCall {
  if (outcome.kind === "failure") return { type: "failure", attempt, error: outcome.error };
  const { status, problem } = outcome.answer;
  return { type: "answer", attempt, status, code: problem?.code };
}

function delivered(
  outcome: AttemptOutcome,
  { subject, firstSent }: Call,
  attempts: number,
  gaveUp: GaveUp,
): Delivery {
  if (outcome.kind === "answer") {
    const { response, answer, limit, isWhole } = outcome;
    const isFinal = !isRetryable(answer);
    return { response, answer, isFinal, flowing: isWhole ? undefined : limit };
  }
  const { method, url, key } = subject;
  if (key === undefined || firstSent === undefined) throw outcome.error;
  throw new NoAnswer({ method, url, key, firstSent, attempts, gaveUp }, outcome.error);
}

function pauseAfter(
  { backoff, random, wallMs }: Settings,
  outcome: AttemptOutcome,
  attempt: number,
): { delayMs: number; isRetryAfter: boolean } {
  const asked =
    outcome.kind === "answer" ? retryAfterMs(outcome.answer.headers, wallMs()) : undefined;
  if (asked !== undefined) return { delayMs: asked, isRetryAfter: true };
  return { delayMs: backoffMs(backoff, attempt - 1, random), isRetryAfter: false };
}

function reasonToGiveUp(
  { attemptsMax, budget }: Settings,
  limit: Limit,
  attempt: number,
  delayMs: number,
): GaveUp | undefined {
  if (limit.isPast) return "deadline";
  if (attempt >= attemptsMax) return "attempts";
  if (delayMs >= limit.remainingMs) return "deadline";
  return budget.take() ? undefined : "budget";
}
