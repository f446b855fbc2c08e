// The Postgres store's way to its database: statements that are asked again where others were in the way,
// and whether the tables and functions are those of this version.

import { setTimeout as delay } from "node:timers/promises";
import type { SqlExecutor, SqlResult, SqlValue } from "../../store.ts";
import type { SqlInteger } from "../sql-record.ts";
import type { PostgresClient } from "./client.ts";
import { isConflict, isMissingFunction, isMissingTable, isRefusal, storeError } from "./errors.ts";
import type { Called, PostgresFunctions } from "./functions.ts";
import { type Query, rowsOf } from "./replies.ts";
import { applyMigrations, assertPrimary, assertSchema, type PostgresTables } from "./schema.ts";
import type { HowMany, PostgresStatements } from "./statements.ts";

const CONFLICT_TRIES_MAX = 8;
const CONFLICT_PAUSE_MS = 20;

export class PostgresDatabase {
  readonly #client: PostgresClient;
  readonly #tables: PostgresTables;
  readonly #migrations: readonly string[];
  readonly #functions: PostgresFunctions;
  /** What a store looks at before it begins. */
  readonly #inspection: string;
  #isReady = false;
  #hasFunctions = false;
  #checking: Promise<void> | undefined;

  constructor(
    client: PostgresClient,
    tables: PostgresTables,
    migrations: readonly string[],
    sql: PostgresStatements,
    functions: PostgresFunctions,
  ) {
    this.#client = client;
    this.#tables = tables;
    this.#migrations = migrations;
    this.#functions = functions;
    this.#inspection = sql.version(functions.areThere);
  }

  /** Whether {@link ready} has nothing to do. */
  get isReady(): boolean {
    return this.#isReady;
  }

  /** The store's functions, where they are there. */
  get functions(): PostgresFunctions | undefined {
    return this.#hasFunctions ? this.#functions : undefined;
  }

  /** A function was found missing: statements do without from now on. */
  forgetFunctions(): void {
    this.#hasFunctions = false;
  }

  async migrate(): Promise<void> {
    await applyMigrations(this.#migrations, {
      version: () => this.#version(),
      run: (sql) => this.#client.script(sql),
    }).catch((error: unknown) => {
      throw storeError(error);
    });
    await this.#check();
    await this.#createFunctions();
  }

  /**
   * Asks by the function where there is one, which a session plans once.
   *
   * @param otherwise the statement for where there is none
   */
  async call(
    called: Exclude<Called, "complete">,
    otherwise: string,
    parameters: (howMany?: HowMany) => SqlValue[],
  ): Promise<SqlResult> {
    if (this.#hasFunctions) {
      try {
        return await this.rawQuery(this.#functions.calls[called], parameters("many"));
      } catch (error) {
        if (!isMissingFunction(error)) throw error;
        this.#hasFunctions = false;
      }
    }
    return this.rawQuery(otherwise, parameters());
  }

  readonly query: Query = async (sql, parameters) => {
    try {
      return await this.rawQuery(sql, parameters);
    } catch (error) {
      throw storeError(error);
    }
  };

  /** Rejects with the driver's error. What others were in the way of is asked again. */
  async rawQuery(sql: string, parameters: readonly SqlValue[]): Promise<SqlResult> {
    for (let tries = 1; ; tries++) {
      try {
        return await this.#client.query(sql, parameters);
      } catch (error) {
        if (!isConflict(error) || tries === CONFLICT_TRIES_MAX) throw error;
      }
      await delay(Math.random() * CONFLICT_PAUSE_MS);
    }
  }

  /** Checks the schema once; what failed is checked again by the next call. */
  async ready(): Promise<void> {
    if (this.#isReady) return;
    this.#checking ??= this.#check().finally(() => {
      this.#checking = undefined;
    });
    await this.#checking;
  }

  async #check(): Promise<void> {
    this.#assertServes(await this.query(this.#inspection, []));
  }

  /** {@link ready}, asked through a transaction of the caller's. */
  async checkOn(executor: SqlExecutor): Promise<void> {
    if (this.#isReady) return;
    const result = await executor.query(this.#inspection, []).catch((error: unknown) => {
      throw storeError(error);
    });
    this.#assertServes(result);
  }

  #assertServes(result: SqlResult): void {
    const [row] = rowsOf<{ version: SqlInteger | null; replica: boolean; functions: boolean }>(
      result,
    );
    assertPrimary(row!.replica);
    assertSchema(Number(row!.version ?? 0), this.#migrations.length, this.#tables.title);
    this.#hasFunctions = row!.functions;
    this.#isReady = true;
  }

  /**
   * Once for each version of the statements. A database that does not take them, or a role that may
   * not create them, does without; and whoever was faster has made the same.
   */
  async #createFunctions(): Promise<void> {
    if (this.#hasFunctions) return;
    try {
      await this.#client.script(this.#functions.create);
    } catch (error) {
      if (!isRefusal(error)) throw storeError(error);
    }
    await this.#check();
  }

  /** 0: no migration has been applied; there are no tables. */
  async #version(): Promise<number> {
    try {
      const { rows } = await this.#client.query(this.#inspection);
      return Number(rows[0]!["version"] ?? 0);
    } catch (error) {
      if (isMissingTable(error)) return 0;
      throw error;
    }
  }
}
