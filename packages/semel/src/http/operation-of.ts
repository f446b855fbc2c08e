// Finds the operation that a request is.

import type { HttpOperation } from "./exchange.ts";

/** A property, not a `WeakMap`, which costs the garbage collector more than the request itself. */
const OPERATION = Symbol("semel.operation");

type Marked = object & { [OPERATION]?: HttpOperation };

/**
 * The operation that a request is, when it carries a key and runs (HTTP-15).
 *
 * @param request the request object that the handler was given
 * @example operationOf(req)?.signal.throwIfAborted();
 */
export function operationOf(request: object): HttpOperation | undefined {
  return (request as Marked)[OPERATION];
}

/** Remembers the operation of a request. */
export function setOperation(request: object, operation: HttpOperation): void {
  (request as Marked)[OPERATION] = operation;
}
