// Semel makes operations safe to repeat: one effect and one answer per key.

export type { Clock } from "./clock.ts";
export { type Codec, jsonCodec } from "./codec.ts";
export type { Duration } from "./duration.ts";
export type {
  OperationDetails,
  OperationName,
  OperationRecord,
  OperationStatus,
  PurgeOptions,
  RecordQuery,
  Tombstone,
  Verdict,
  VoidOutcome,
} from "./engine/administration.ts";
export type { EncryptionOptions } from "./engine/at-rest.ts";
export type { Operation } from "./engine/attempt.ts";
export type { DurableOptions } from "./engine/durable/definition.ts";
export type {
  DurableName,
  DurableOperation,
  DurableRequest,
  Started,
  WaitOptions,
} from "./engine/durable/operation.ts";
export type { StandardSchemaV1 } from "./engine/durable/standard-schema.ts";
export type { DurableStatus } from "./engine/durable/status.ts";
export type { Worker, WorkerOptions } from "./engine/durable/worker.ts";
export type { EffectOptions, RecordEffect } from "./engine/effects/effects.ts";
export type {
  DeadLetter,
  Deliver,
  DeliveryOptions,
  Effect,
  Relay,
  RelayHandlers,
  RelayOptions,
} from "./engine/effects/relay.ts";
export type { Outcome } from "./engine/execution.ts";
export { Idempotency, type IdempotencyOptions, type RunRequest } from "./engine/idempotency.ts";
export type {
  Delivery,
  Inbox,
  InboxMessage,
  InboxOptions,
} from "./engine/inbox/inbox.ts";
export type { StepRecord } from "./engine/journal.ts";
export type { OperationOptions, Probe, ProbeVerdict } from "./engine/policy.ts";
export type {
  Ledger,
  QueuedQuery,
  QueuedRecord,
  QueuedStats,
} from "./engine/queue/ledger.ts";
export type { RetryOptions } from "./engine/queue/retrying.ts";
export type { Service, ServiceOptions } from "./engine/queue/service.ts";
export type {
  Step,
  StepContext,
  StepOptions,
  TransactionStepContext,
} from "./engine/step.ts";
export * from "./errors.ts";
export {
  type OperationOutcome,
  outcomeOfEvent,
  type SemelEvent,
  type SemelWork,
} from "./events.ts";
export type { FingerprintSelection } from "./fingerprint.ts";
export type * from "./store.ts";
