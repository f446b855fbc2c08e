// Finds the operation that a request is, without adding to the framework's objects.

import type { HttpOperation } from "./exchange.ts";

const operations = new WeakMap<object, HttpOperation>();

/**
 * The operation that a request is, when it carries a key and runs (HTTP-15).
 *
 * @param request the request object that the handler was given
 * @example operationOf(req)?.signal.throwIfAborted();
 */
export function operationOf(request: object): HttpOperation | undefined {
  return operations.get(request);
}

/** Remembers the operation of a request. */
export function setOperation(request: object, operation: HttpOperation): void {
  operations.set(request, operation);
}
