// A retrying `fetch` whose requests are safe to repeat. For browsers, Node, Bun, Deno and Workers: no
// module here, nor any that it imports, needs Node.

export type { Clock } from "../clock.ts";
export type { Duration } from "../duration.ts";
export {
  type AnySemelError,
  type ErrorCode,
  isSemelError,
  type Retry,
  SemelError,
} from "../errors.ts";
export type { BudgetOptions } from "./budget.ts";
export { type Client, type ClientInit, createClient, type OperationInit } from "./client.ts";
export {
  type GaveUp,
  NoAnswer,
  OperationExpired,
  OperationNameReused,
  RequestTooLarge,
} from "./errors.ts";
export type { ClientEvent, EventSubject } from "./events.ts";
export type { RequestIdentity } from "./keys.ts";
export type { ClientOptions, KeyedRequest, RetryOptions } from "./options.ts";
export type { KeyLocks, KeyStorage, SavedOperation } from "./saved-keys.ts";
