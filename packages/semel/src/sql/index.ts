// SQL that is safe to repeat, on whatever client the user has.

export type { SqlExecutor, SqlResult, SqlValue } from "../store.ts";
export * from "./executors.ts";
