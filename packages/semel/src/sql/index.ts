// SQL that is safe to repeat, on whatever client the user has.

export type { SqlExecutor, SqlResult, SqlValue } from "../store.ts";
export * from "./executors.ts";
export type { TableName } from "./identifiers.ts";
export {
  type Inserted,
  type InsertOnceAllOptions,
  type InsertOnceOptions,
  insertOnce,
  insertOnceAll,
  RowMismatch,
  type RowValues,
} from "./insert-once.ts";
export {
  type ComputeVersionOptions,
  type UpdateVersionOptions,
  updateVersion,
  updateVersionAll,
  type Version,
  type VersionChange,
  type VersionComputed,
  type VersionUpdate,
} from "./update-version.ts";
export {
  type UpsertAllOptions,
  type Upserted,
  type UpsertOptions,
  upsert,
  upsertAll,
} from "./upsert.ts";
