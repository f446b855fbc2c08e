// Opens the stores that are servers: each with the library's usual client, and with time-outs, so that
// a server which has gone silent is given up instead of waited for.

import type { Redis } from "ioredis";
import type { Pool as MysqlPool } from "mysql2/promise";
import type { Pool as PgPool } from "pg";
import type { Store } from "semel";
import { mysqlStore } from "semel/mysql";
import { postgresStore } from "semel/postgres";
import { redisStore } from "semel/redis";
import { Failure } from "../failure.ts";

interface OpenServer<Kind extends string, Client> {
  kind: Kind;
  store: Store;
  /** For what the store does not ask: settings of the server. */
  client: Client;
  migrate(): Promise<void>;
  close(): Promise<void>;
}

export type OpenPostgres = OpenServer<"postgres", PgPool>;
export type OpenMysql = OpenServer<"mysql", MysqlPool>;
export type OpenRedis = OpenServer<"redis", Redis>;

export interface ServerOptions {
  /** How long one statement may take. */
  answerMs: number;
  /** Whether to connect again when a connection that was there has broken. */
  reconnects: boolean;
  table?: string | undefined;
  prefix?: string | undefined;
}

const CONNECT_MS = 5_000;

export async function openPostgres(url: string, options: ServerOptions): Promise<OpenPostgres> {
  const { default: pg } = await import("pg");
  const client = new pg.Pool({
    connectionString: url,
    connectionTimeoutMillis: CONNECT_MS,
    query_timeout: options.answerMs,
    keepAlive: true,
    application_name: "semel",
  });
  // Without a listener an idle connection that breaks would end the process; the pool makes another.
  client.on("error", () => {});
  const { table } = options;
  const store = postgresStore(client, table === undefined ? {} : { table });
  return {
    kind: "postgres",
    ...{ store, client },
    migrate: () => store.migrate(),
    close: () => client.end(),
  };
}

export async function openMysql(url: string, options: ServerOptions): Promise<OpenMysql> {
  const { createPool } = await import("mysql2/promise");
  const client = createPool({ uri: url, connectTimeout: CONNECT_MS, enableKeepAlive: true });
  const { table, answerMs } = options;
  const store = mysqlStore(client, {
    queryTimeout: answerMs,
    ...(table !== undefined && { table }),
  });
  return {
    kind: "mysql",
    ...{ store, client },
    migrate: () => store.migrate(),
    close: () => client.end(),
  };
}

/** @throws {Failure} when the server is not reached, or does not let the client in */
export async function openRedis(
  url: string,
  shown: string,
  options: ServerOptions,
): Promise<OpenRedis> {
  const { Redis } = await import("ioredis");
  let isReady = false;
  const client = new Redis(url, {
    lazyConnect: true,
    // An outage is to be answered at once, not when it is over.
    enableOfflineQueue: false,
    connectTimeout: CONNECT_MS,
    commandTimeout: options.answerMs,
    socketTimeout: options.answerMs,
    retryStrategy: (times) => (isReady && options.reconnects ? Math.min(times * 50, 2_000) : null),
    // After a failover, what was the primary is not any more.
    reconnectOnError: (error) => error.message.includes("READONLY"),
  });
  let lastError: Error | undefined;
  client.on("error", (error: Error) => {
    lastError = error;
  });
  try {
    await client.connect();
    isReady = true;
  } catch (cause) {
    client.disconnect();
    const { message } = lastError ?? (cause as Error);
    throw new Failure(
      `--store ${shown}: Redis could not be asked: ${message}; check that it runs there, that this machine may reach it, and the credentials of the address`,
      { cause },
    );
  }
  const { prefix } = options;
  return {
    kind: "redis",
    store: redisStore(client, prefix === undefined ? {} : { prefix }),
    client,
    migrate: async () => {},
    close: async () => client.disconnect(),
  };
}
