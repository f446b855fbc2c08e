// Compiled, never run: the libraries' own types fit the structural ones of `semel/sql`.

import type { EntityManager as MikroOrmManager } from "@mikro-orm/postgresql";
import { sql } from "drizzle-orm";
import type { MySql2Database } from "drizzle-orm/mysql2";
import type { NodePgDatabase } from "drizzle-orm/node-postgres";
import type { PostgresJsDatabase } from "drizzle-orm/postgres-js";
import type { BaseSQLiteDatabase } from "drizzle-orm/sqlite-core";
import type { Knex } from "knex";
import type { ControlledTransaction, Transaction } from "kysely";
import type Libsql from "libsql";
import type { Connection, PoolConnection } from "mysql2/promise";
import type { Client, PoolClient } from "pg";
import type { TransactionSql } from "postgres";
import type { EntityManager, QueryRunner } from "typeorm";
import type { Idempotency } from "../../src/engine/idempotency.ts";
import {
  fromDrizzle,
  fromKnex,
  fromKysely,
  fromMikroOrm,
  fromMysql2,
  fromPg,
  fromPostgresJs,
  fromPrisma,
  fromSqlite,
  fromTypeOrm,
  type SqlExecutor,
} from "../../src/sql/index.ts";

interface Tables {
  orders: { sku: string };
}

type First<Work> = Work extends (first: infer Transaction, ...rest: never[]) => unknown
  ? Transaction
  : never;

/** As the client that Prisma generates declares it for interactive transactions. */
interface PrismaTransactionClient {
  $executeRawUnsafe(query: string, ...values: unknown[]): PrismaPromise<number>;
  $queryRawUnsafe<T = unknown>(query: string, ...values: unknown[]): PrismaPromise<T>;
}

interface PrismaPromise<T> extends Promise<T> {
  [Symbol.toStringTag]: "PrismaPromise";
}

export function executors(transactions: {
  pg: PoolClient | Client;
  postgresJs: TransactionSql;
  mysql2: PoolConnection | Connection;
  libsql: InstanceType<typeof Libsql>;
  kysely: Transaction<Tables>;
  controlled: ControlledTransaction<Tables>;
  drizzlePg: First<Parameters<NodePgDatabase["transaction"]>[0]>;
  drizzlePostgresJs: First<Parameters<PostgresJsDatabase["transaction"]>[0]>;
  drizzleMysql: First<Parameters<MySql2Database["transaction"]>[0]>;
  drizzleSqlite: BaseSQLiteDatabase<"async", unknown>;
  typeOrm: EntityManager;
  typeOrmRunner: QueryRunner;
  knex: Knex.Transaction;
  prisma: PrismaTransactionClient;
  mikroOrm: MikroOrmManager;
}): SqlExecutor[] {
  return [
    fromPg(transactions.pg),
    fromPostgresJs(transactions.postgresJs),
    fromMysql2(transactions.mysql2),
    fromSqlite(transactions.libsql),
    fromKysely(transactions.kysely, "postgres"),
    fromKysely(transactions.controlled, "mysql"),
    fromDrizzle(transactions.drizzlePg, sql, "postgres"),
    fromDrizzle(transactions.drizzlePostgresJs, sql, "postgres"),
    fromDrizzle(transactions.drizzleMysql, sql, "mysql"),
    fromDrizzle(transactions.drizzleSqlite, sql, "sqlite"),
    fromTypeOrm(transactions.typeOrm, "postgres"),
    fromTypeOrm(transactions.typeOrmRunner.manager, "mysql"),
    fromKnex(transactions.knex),
    fromPrisma(transactions.prisma, "postgres"),
    fromMikroOrm(transactions.mikroOrm),
  ];
}

export async function joins(idempotency: Idempotency, client: PoolClient): Promise<number> {
  const outcome = await idempotency.within(fromPg(client), { key: "k" }, () => 1);
  return outcome.value;
}
