// A store of its own for each test file, on every server that the command knows.

import { randomBytes } from "node:crypto";
import { join } from "node:path";
import { Redis } from "ioredis";
import { createConnection } from "mysql2/promise";
import pg from "pg";
import { mysqlSource } from "../../../semel/test/servers/mysql.ts";
import { postgresSource } from "../../../semel/test/servers/postgres.ts";
import { redisSource } from "../../../semel/test/servers/redis.ts";
import { findServer } from "../../../semel/test/servers/server.ts";
import { folder } from "../processes.ts";

/** What has to be undone at the end of the file. */
export type Undo = () => Promise<unknown>;

export type TestStore =
  | { flags: string[]; close: Undo }
  /** Why there is none. */
  | { reason: string };

/** A Postgres database that nobody else uses. */
export async function postgresDatabase(): Promise<TestStore> {
  const server = await findServer(postgresSource);
  if ("reason" in server) return server;
  const name = `semel_cli_${randomBytes(6).toString("hex")}`;
  const url = new URL(server.url);
  const ask = async (sql: string) => {
    const client = new pg.Client({ connectionString: server.url });
    await client.connect();
    await client.query(sql);
    await client.end();
  };
  await ask(`CREATE DATABASE ${name}`);
  url.pathname = `/${name}`;
  return {
    flags: ["--store", url.href],
    close: async () => {
      await ask(`DROP DATABASE ${name} WITH (FORCE)`);
      await server.close();
    },
  };
}

/** A MySQL database that nobody else uses. */
export async function mysqlDatabase(): Promise<TestStore> {
  const server = await findServer(mysqlSource);
  if ("reason" in server) return server;
  const name = `semel_cli_${randomBytes(6).toString("hex")}`;
  const url = new URL(server.url);
  const ask = async (sql: string) => {
    const connection = await createConnection(server.url);
    await connection.query(sql);
    await connection.end();
  };
  await ask(`CREATE DATABASE ${name}`);
  url.pathname = `/${name}`;
  return {
    flags: ["--store", url.href],
    close: async () => {
      await ask(`DROP DATABASE ${name}`);
      await server.close();
    },
  };
}

/** A prefix on Redis that nobody else uses. */
export async function redisPrefix(): Promise<TestStore> {
  const server = await findServer(redisSource);
  if ("reason" in server) return server;
  const prefix = `semel-cli-${randomBytes(6).toString("hex")}:`;
  return {
    flags: ["--store", server.url, "--prefix", prefix],
    close: async () => {
      const client = new Redis(server.url);
      const keys = await client.keys(`${prefix}*`);
      if (keys.length > 0) await client.del(...keys);
      client.disconnect();
      await server.close();
    },
  };
}

export async function sqliteFile(): Promise<TestStore> {
  const path = join(await folder(), "semel.db");
  return { flags: ["--store", `sqlite:${path}`], close: async () => {} };
}
