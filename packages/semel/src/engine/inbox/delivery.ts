// What became of one delivery of a message, as a value and as an error.

import { KeyInvalid, type KeyReused, OperationBusy, OperationFailed } from "../../errors.ts";

/** What became of one delivery. */
export type Delivery =
  /** The handler ran to its end, and that is recorded. */
  | { kind: "processed" }
  /** It was handled before; nothing ran. */
  | { kind: "duplicate" }
  /** Another delivery of it is being handled. `retryAfterMs`: what is left of its lease. */
  | { kind: "busy"; retryAfterMs: number }
  /**
   * It was not handled: the handler threw, or (`attempt` 0) the store could not be asked. Worth
   * another delivery after `retryAfterMs`.
   */
  | { kind: "failed"; attempt: number; error: unknown; retryAfterMs: number }
  /**
   * It failed or crashed too often, or (`attempt` 0) its record is held or void: it is not handled any
   * more. An `attempt` above `attemptsMax` was not run.
   */
  | { kind: "poison"; attempt: number; error: unknown }
  /** The id was used before with another payload. */
  | { kind: "mismatch"; error: KeyReused }
  /** It has no id, and `withoutId` gives it none. */
  | { kind: "unidentified"; error: KeyInvalid };

/** @throws unless it is handled */
export function orThrow(delivery: Delivery): "processed" | "duplicate" {
  switch (delivery.kind) {
    case "processed":
    case "duplicate":
      return delivery.kind;
    case "busy":
      throw new OperationBusy(delivery.retryAfterMs);
    case "poison":
      throw new OperationFailed(asError(delivery.error));
    default:
      throw delivery.error;
  }
}

export function exhausted(attemptsMax: number): Error {
  return new Error(
    `it failed or crashed at ${attemptsMax} deliveries, and is not handled any more`,
  );
}

export function unidentified(): KeyInvalid {
  return new KeyInvalid(
    "The message has no id, so that its redelivery could not be recognised; let its publisher set one, or set `withoutId`",
  );
}

function asError(error: unknown): Error {
  return error instanceof Error ? error : new Error(String(error), { cause: error });
}
