// Conditional requests (RFC 9110 §13): natural idempotency and no lost updates for versioned data.

export { etag, etagOf, weakEtag } from "./entity-tag.ts";
export {
  type ConditionalRequest,
  evaluatePreconditions,
  type HeaderFields,
  type PreconditionField,
  type PreconditionOptions,
  type Validators,
  type Verdict,
} from "./preconditions.ts";
export {
  type PreconditionResponse,
  type PreconditionResponseOptions,
  preconditionResponse,
} from "./response.ts";
