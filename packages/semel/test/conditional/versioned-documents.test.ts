// HTTP-17 and SQL-1 together: the example in examples/versioned-documents, as a process of its own, over
// HTTP, on the real Postgres.

import { type ChildProcess, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import pg from "pg";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { postgresSource } from "../servers/postgres.ts";
import { findServer } from "../servers/server.ts";

const START = fileURLToPath(
  new URL("../../../../examples/versioned-documents/start.mjs", import.meta.url),
);
const found = await findServer(postgresSource);
const reason = "reason" in found ? found.reason : undefined;

describe.skipIf(reason)(`documents with versions${reason ? ` (skipped: ${reason})` : ""}`, () => {
  const schema = `documents_${randomBytes(6).toString("hex")}`;
  let admin: pg.Client;
  const services: { child: ChildProcess; address: string }[] = [];

  async function start(connectionString: string): Promise<void> {
    const url = new URL(connectionString);
    url.searchParams.set("options", `-c search_path=${schema}`);
    const child = spawn(process.execPath, [START], {
      env: {
        ...process.env,
        DATABASE_URL: url.href.replaceAll("+", "%20"),
        LISTEN: "127.0.0.1:0",
      },
      stdio: ["ignore", "pipe", "pipe"],
    });
    let text = "";
    const address = await new Promise<string>((resolve, reject) => {
      for (const stream of [child.stdout, child.stderr]) {
        stream.setEncoding("utf8").on("data", (chunk: string) => {
          text += chunk;
          const line = /Listening on (\S+)\n/.exec(text);
          if (line) resolve(line[1]!);
        });
      }
      child.once("exit", (code) => reject(new Error(`It ended with ${code}: ${text}`)));
    });
    services.push({ child, address });
  }

  beforeAll(async () => {
    const { url } = found as { url: string };
    admin = new pg.Client({ connectionString: url });
    await admin.connect();
    await admin.query(`CREATE SCHEMA ${schema}`);
    // One after the other, because the first creates the table.
    for (let n = 0; n < 2; n++) await start(url);
  });

  afterAll(async () => {
    for (const { child } of services) {
      child.kill("SIGTERM");
      if (child.exitCode === null) await once(child, "exit");
    }
    await admin?.query(`DROP SCHEMA ${schema} CASCADE`);
    await admin?.end();
    if ("close" in found) await found.close();
  });

  async function ask(
    method: string,
    id: string,
    headers: Record<string, string> = {},
    content?: object,
    service = 0,
  ) {
    const response = await fetch(`${services[service]!.address}/documents/${id}`, {
      method,
      headers,
      body: content ? JSON.stringify(content) : null,
    });
    const text = await response.text();
    return { status: response.status, etag: response.headers.get("etag") ?? "", text };
  }
  const put = (id: string, headers: Record<string, string>, body: string, service = 0) =>
    ask("PUT", id, headers, { title: "Plan", body }, service);
  const CREATE = { "If-None-Match": "*" };

  test("a document's life: created once, read by its tag, changed from its version, removed", async () => {
    const created = await put("life", CREATE, "one");
    expect(created).toMatchObject({ status: 201, etag: expect.stringMatching(/^"\d+-1"$/) });
    expect((await put("life", CREATE, "two")).status).toBe(412);

    const read = await ask("GET", "life");
    expect(read).toMatchObject({ status: 200, etag: created.etag });
    expect(JSON.parse(read.text)).toEqual({ id: "life", title: "Plan", body: "one" });
    const cached = await ask("GET", "life", { "If-None-Match": `"other", W/${read.etag}` });
    expect(cached).toEqual({ status: 304, etag: read.etag, text: "" });

    const changed = await put("life", { "If-Match": read.etag }, "two");
    expect(changed.status).toBe(204);
    expect(changed.etag).not.toBe(read.etag);
    expect((await ask("GET", "life", { "If-None-Match": read.etag })).status).toBe(200);

    const late = await ask("DELETE", "life", { "If-Match": read.etag });
    expect(late.status).toBe(412);
    expect(JSON.parse(late.text)).toMatchObject({ code: "precondition-failed", retry: "new-key" });
    expect((await ask("DELETE", "life", { "If-Match": changed.etag })).status).toBe(204);
    expect((await ask("DELETE", "life", { "If-Match": changed.etag })).status).toBe(204);
    expect((await ask("GET", "life")).status).toBe(404);
  });

  test("a write whose answer was lost is confirmed when it is sent again, and not applied twice", async () => {
    const { etag } = await put("lost", CREATE, "one");
    const first = await put("lost", { "If-Match": etag }, "two");
    const again = await put("lost", { "If-Match": etag }, "two");
    expect(again).toEqual(first);
    expect((await put("lost", { "If-Match": etag }, "three")).status).toBe(412);
  });

  test("writes without a condition are refused with 428, unreadable ones with 400, and bad bodies first", async () => {
    await put("guarded", CREATE, "one");
    expect((await put("guarded", {}, "two")).status).toBe(428);
    expect((await put("guarded", { "If-Match": "1-1" }, "two")).status).toBe(400);
    expect((await ask("DELETE", "guarded")).status).toBe(428);
    const invalid = await ask("PUT", "guarded", { "If-Match": '"x"' }, { title: 1 });
    expect(invalid.text).toContain("`title`");
    expect((await ask("GET", "guarded")).text).toContain("one");
  });

  test("the tag of a deleted document does not match the next one of its name", async () => {
    const { etag } = await put("again", CREATE, "one");
    await ask("DELETE", "again", { "If-Match": etag });
    expect((await put("again", CREATE, "new")).status).toBe(201);
    expect((await put("again", { "If-Match": etag }, "old")).status).toBe(412);
    expect((await ask("GET", "again")).text).toContain("new");
  });

  test("of many who create at once one does, and of many who change from one version one does", async () => {
    const creations = await Promise.all(
      Array.from({ length: 40 }, (_, n) => put("race", CREATE, `by ${n}`, n % 2)),
    );
    const created = creations.filter(({ status }) => status === 201);
    expect(created).toHaveLength(1);
    expect(creations.filter(({ status }) => status === 412)).toHaveLength(39);

    const headers = { "If-Match": created[0]!.etag };
    const changes = await Promise.all(
      Array.from({ length: 40 }, (_, n) => put("race", headers, `changed by ${n}`, n % 2)),
    );
    const winner = changes.findIndex(({ status }) => status === 204);
    expect(changes.filter(({ status }) => status === 204)).toHaveLength(1);
    expect(changes.filter(({ status }) => status === 412)).toHaveLength(39);
    const { text, etag } = await ask("GET", "race");
    expect(JSON.parse(text).body).toBe(`changed by ${winner}`);
    expect(etag).toBe(changes[winner]!.etag);
  });

  test("readers who change what they read, again after each 412, lose no change", async () => {
    await put("counter", CREATE, "0");
    const add = async (service: number): Promise<void> => {
      for (;;) {
        const { text, etag } = await ask("GET", "counter", {}, undefined, service);
        const next = String(Number(JSON.parse(text).body) + 1);
        const { status } = await ask(
          "PUT",
          "counter",
          { "If-Match": etag },
          { title: crypto.randomUUID(), body: next },
          service,
        );
        if (status === 204) return;
        expect(status).toBe(412);
      }
    };
    await Promise.all(Array.from({ length: 20 }, (_, n) => add(n % 2)));
    expect(JSON.parse((await ask("GET", "counter")).text).body).toBe("20");
  });
});
