// The framework-neutral HTTP core, for adapters of servers that Semel has none for, and for proxies:
// decide about a request, run it, and end it by its response.

export type { Body } from "./body-fingerprint.ts";
export {
  type Answer,
  type Decision,
  type Exchange,
  HttpLayer,
  type HttpOperation,
  type Identity,
  type IncomingRequest,
} from "./exchange.ts";
export type { HttpOptions, HttpPolicy } from "./options.ts";
export {
  type HttpResponse,
  httpResult,
  type KeptResponse,
  responseOf,
  type StoredHeaders,
} from "./response.ts";
