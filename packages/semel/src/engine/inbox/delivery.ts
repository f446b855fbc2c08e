// What became of one delivery of a message, as a value and as an error.

import { type KeyReused, OperationBusy, OperationFailed } from "../../errors.ts";
import type { Unidentified } from "./message-id.ts";

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
  /**
   * Nothing can be remembered of it: it has no id, and `withoutId` gives it none, or its payload has no
   * canonical form (`payload-invalid`). It was not handled, and no redelivery mends that.
   */
  | { kind: "unidentified"; error: Unidentified };

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

function asError(error: unknown): Error {
  return error instanceof Error ? error : new Error(String(error), { cause: error });
}
