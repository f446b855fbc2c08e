// `semel migrate --print` prints SQL that does what `semel migrate` does, also twice and at once.

import { join } from "node:path";
import libsql from "libsql";
import { createConnection } from "mysql2/promise";
import pg from "pg";
import { afterAll, describe, expect, test } from "vitest";
import { cleanUp, folder, semel } from "../processes.ts";
import { mysqlDatabase, postgresDatabase, type Undo } from "./fixtures.ts";

afterAll(cleanUp);

async function printed(scheme: string, ...flags: string[]): Promise<string> {
  const { code, stdout, stderr } = await semel("migrate", "--print", "--store", scheme, ...flags);
  expect([code, stderr]).toEqual([0, ""]);
  return stdout;
}

const postgres = await postgresDatabase();
const mysql = await mysqlDatabase();

describe.skipIf("reason" in postgres)("on Postgres", () => {
  const { flags, close } = postgres as { flags: string[]; close: Undo };
  afterAll(close);

  test("the script runs many times at once, and the command finds nothing left to do", async () => {
    const script = await printed("postgres:");
    const run = async () => {
      const client = new pg.Client({ connectionString: flags[1] });
      await client.connect();
      await client.query(script).finally(() => client.end());
    };
    await Promise.all([run(), run(), run(), run()]);
    await run();
    expect(await semel("stats", ...flags)).toMatchObject({ code: 0, stderr: "" });
    const client = new pg.Client({ connectionString: flags[1] });
    await client.connect();
    const functions = async () => {
      const sql = "SELECT proname FROM pg_proc WHERE proname LIKE 'semel%' ORDER BY 1";
      return (await client.query(sql)).rows;
    };
    const made = await functions();
    expect(made.length).toBeGreaterThan(2);
    expect(await semel("migrate", ...flags)).toMatchObject({ code: 0 });
    expect(await functions()).toEqual(made);
    await client.end();
  });

  test("--table names the tables, whatever is in the name", async () => {
    const table = `it's "mine"`;
    const client = new pg.Client({ connectionString: flags[1] });
    await client.connect();
    for (let times = 0; times < 2; times++) {
      await client.query(await printed("postgres:", "--table", table));
    }
    await client.end();
    expect(await semel("stats", "--table", table, ...flags)).toMatchObject({ code: 0 });
  });
});

describe.skipIf("reason" in mysql)("on MySQL", () => {
  const { flags, close } = mysql as { flags: string[]; close: Undo };
  afterAll(close);

  test("the script runs many times at once", async () => {
    const script = await printed("mysql:");
    const run = async () => {
      const connection = await createConnection({ uri: flags[1]!, multipleStatements: true });
      await connection.query(script).finally(() => connection.end());
    };
    await Promise.all([run(), run(), run(), run()]);
    await run();
    expect(await semel("stats", ...flags)).toMatchObject({ code: 0, stderr: "" });
  });
});

test("on SQLite the script makes a new file ready, and leaves one that is ready as it is", async () => {
  const script = await printed("sqlite:any");
  expect(script).toContain("\n.bail on\n");
  const path = join(await folder(), "semel.db");
  // The line is for SQLite's shell, which otherwise goes on after an error; drivers stop by themselves.
  const sql = script.replace(/^\.bail on$/m, "");
  const run = () => {
    const database = new libsql(path);
    try {
      database.exec(sql);
    } finally {
      database.close();
    }
  };
  run();
  const stats = await semel("stats", "--json", "--store", `sqlite:${path}`);
  expect(stats).toMatchObject({ code: 0, stderr: "" });
  expect(run).toThrow(/already exists/);
  expect(await semel("stats", "--json", "--store", `sqlite:${path}`)).toEqual(stats);
});
