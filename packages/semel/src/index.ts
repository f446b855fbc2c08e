// Semel makes operations safe to repeat: one effect and one answer per key.

export type { Clock } from "./clock.ts";
export { type Codec, jsonCodec } from "./codec.ts";
export type { Duration } from "./duration.ts";
export type {
  OperationName,
  OperationRecord,
  OperationStatus,
  PurgeOptions,
  RecordQuery,
  Verdict,
} from "./engine/administration.ts";
export type { EncryptionOptions } from "./engine/at-rest.ts";
export type { Operation } from "./engine/attempt.ts";
export type { Outcome } from "./engine/execution.ts";
export { Idempotency, type IdempotencyOptions, type RunRequest } from "./engine/idempotency.ts";
export type { OperationOptions, Probe, ProbeVerdict } from "./engine/policy.ts";
export * from "./errors.ts";
export type { SemelEvent } from "./events.ts";
export type { FingerprintSelection } from "./fingerprint.ts";
export type * from "./store.ts";
