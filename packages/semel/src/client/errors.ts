// What the client throws beyond the errors that the whole library shares.

import { SemelError } from "../errors.ts";

/** Why a call ended without a further attempt. */
export type GaveUp = "attempts" | "deadline" | "budget";

const BECAUSE: Record<GaveUp, string> = {
  attempts: "`retry.attemptsMax` was reached",
  deadline: "`deadline` passed, or would have passed before the next attempt",
  budget: "the retry budget was used up",
};

/** What is known of a request that got no answer. */
export interface Unanswered {
  method: string;
  url: string;
  key: string;
  firstSent: string;
  attempts: number;
  gaveUp: GaveUp;
}

/**
 * No attempt got a whole answer: the request may have been carried out, or not. Sending it again
 * with the same key is safe and tells; with a new key it could be carried out twice.
 */
export class NoAnswer extends SemelError<"no-answer"> {
  /** For `idempotency: { key }`, to go on with this operation later. */
  readonly key: string;
  /** `Repeatability-First-Sent` of all attempts, an HTTP date; send it again with the key. */
  readonly firstSent: string;
  readonly attempts: number;
  readonly gaveUp: GaveUp;

  constructor({ method, url, key, firstSent, attempts, gaveUp }: Unanswered, cause: unknown) {
    const { origin, pathname } = new URL(url);
    const times = attempts === 1 ? "1 attempt" : `${attempts} attempts`;
    super(
      "no-answer",
      `${method} ${origin}${pathname} got no answer in ${times} (${BECAUSE[gaveUp]}), so its outcome is unknown. Send it again with the same key (\`idempotency: { key: error.key }\`); a new key could carry it out twice`,
      { cause },
    );
    this.key = key;
    this.firstSent = firstSent;
    this.attempts = attempts;
    this.gaveUp = gaveUp;
  }
}

/** Another request was made under the name of an operation that is not settled. Nothing was sent. */
export class OperationNameReused extends SemelError<"key-reused"> {
  /** The operation's name. */
  readonly operation: string;
  constructor(operation: string) {
    super(
      "key-reused",
      `The operation ${JSON.stringify(operation)} was begun with another method, URL or body. Repeat that request to learn its outcome, then call \`settle(${JSON.stringify(operation)})\` and begin the new one; or give the new one a name of its own. Nothing was sent`,
    );
    this.operation = operation;
  }
}

/**
 * The operation got no answer for as long as servers remember keys, so that sending it again could
 * carry it out twice. Nothing was sent.
 */
export class OperationExpired extends SemelError<"key-expired"> {
  /** The operation's name. */
  readonly operation: string;
  /** The key under which it was sent. */
  readonly key: string;
  constructor(operation: string, key: string, firstSent: string) {
    super(
      "key-expired",
      `The operation ${JSON.stringify(operation)} was first sent at ${firstSent} and got no answer; the server may have forgotten its key by now. Look up its outcome, then call \`settle(${JSON.stringify(operation)})\`. Nothing was sent`,
    );
    this.operation = operation;
    this.key = key;
  }
}

/** The body of a request that may have to be sent again is larger than is held in memory. */
export class RequestTooLarge extends SemelError<"body-too-large"> {
  constructor(requestBytesMax: number) {
    super(
      "body-too-large",
      `A request that may be sent again holds its body in memory, at most ${requestBytesMax} bytes; raise \`maxRequestBytes\`. Nothing was sent`,
    );
  }
}
