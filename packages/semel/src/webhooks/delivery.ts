// A delivery: the exact bytes of one webhook request, and what its sender's signature says of it.

/** A webhook request as a verifier sees it: nothing is known to be true of it yet. */
export interface UnverifiedDelivery {
  /** The exact bytes of the body. */
  readonly body: Uint8Array;
  /**
   * The value of a header, its lines joined with `, `.
   *
   * @param name in any case
   */
  header(name: string): string | undefined;
}

/** A delivery whose signature was verified. */
export interface Delivery extends UnverifiedDelivery {
  /** What names the delivery: every repetition carries the same. */
  readonly id: string;
  /**
   * The body as JSON.
   *
   * @throws {SyntaxError} when it is none, {TypeError} when it is not even UTF-8
   */
  json(): unknown;
}

/**
 * Verifies that a delivery is its sender's, and says its id. It must throw for everything that it
 * cannot vouch for; what it throws never reaches the sender of the request.
 *
 * @returns the id that every repetition of the delivery carries; `undefined` where the option `id`
 * finds it
 */
export interface Verifier {
  (delivery: UnverifiedDelivery): Verified | Promise<Verified>;
  /**
   * How long the sender goes on repeating a delivery by itself, in milliseconds.
   *
   * @default unknown: nothing is said about a short `retention`
   */
  readonly retryHorizonMs?: number;
}

export interface Verified {
  id?: string | undefined;
}

/** Throw it from a verifier for a delivery that is not its sender's. */
export class SignatureInvalid extends Error {
  constructor(message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.name = "SignatureInvalid";
  }
}

/** What a delivery's body is in JSON, or `undefined` when it is none. */
export function jsonOf(body: Uint8Array): unknown {
  try {
    return JSON.parse(decoder.decode(body));
  } catch {
    return undefined;
  }
}

/** A verified delivery, for the handler. */
export function verifiedDelivery(delivery: UnverifiedDelivery, id: string): Delivery {
  const { body } = delivery;
  return { ...delivery, id, json: () => JSON.parse(decoder.decode(body)) };
}

const decoder = new TextDecoder("utf-8", { fatal: true });
