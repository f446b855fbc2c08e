// Connections used in unusual ways: pipelines, upgrades, slow and oversized heads, odd targets. Each
// keyed request gets its own answer, in its turn, or is refused.

import { connect } from "node:net";
import { afterEach, describe, expect, test } from "vitest";
import { RawClient } from "../../src/testing/framework-suite/index.ts";
import { ADAPTERS, type Application, closeAll, serve } from "./applications.ts";
import { code, lastRequest, line, only, request, speak } from "./raw.ts";

afterEach(closeAll);

const KEY = "Idempotency-Key: k";

async function assertNothingRan({ runs, store }: Application): Promise<void> {
  expect(runs()).toBe(0);
  expect((await store.list({ limit: 1 })).records).toEqual([]);
}

/** By Semel, where Node drops lines, or by Node itself, which refuses them from version 24 on. */
function expectRefused(answer: Parameters<typeof code>[0]): void {
  if (answer.status === 431) return;
  expect([answer.status, code(answer)]).toEqual([400, "key-invalid"]);
}

for (const [name, serving] of Object.entries(ADAPTERS)) {
  describe(`${name}: connections`, () => {
    test("pipelined keyed requests are answered in turn, each with its own answer", async () => {
      const { port, runs } = await serve(serving, {
        // The first ones take the most turns.
        answer: async (run) => {
          for (let turns = 0; turns < 20 - 4 * run; turns++) {
            await new Promise((next) => setImmediate(next));
          }
          return {};
        },
      });
      const keys = ["a", "b", "a", "c", "b", "a"];
      const all = keys.map((key) => request([`Idempotency-Key: ${key}`], "x"));
      const answers = await speak(
        port,
        all.join("") + lastRequest(["Idempotency-Key: c"], "other"),
      );
      expect(answers.map(({ status }) => status).at(-1)).toBe(422);
      const bodies = new Map<string, string>();
      for (const [index, key] of keys.entries()) {
        const { status, body } = answers[index]!;
        // A duplicate may come while the first one runs.
        if (status === 409) expect(JSON.parse(body).code).toBe("operation-in-progress");
        else if (bodies.has(key)) expect(body, key).toBe(bodies.get(key));
        else bodies.set(key, body);
      }
      expect(answers).toHaveLength(keys.length + 1);
      expect(new Set(bodies.values()).size).toBe(3);
      expect(runs()).toBe(3);
    });

    test("Expect: 100-continue is answered for what runs, and refusals still come", async () => {
      const application = await serve(serving, { http: () => ({ maxBodyBytes: 10 }) });
      const { port, runs } = application;
      const expecting = (more: string[], body: string) =>
        speak(port, lastRequest(["Expect: 100-continue", ...more], body));
      const statuses = async (more: string[], body: string) =>
        (await expecting(more, body)).map(({ status }) => status);
      // Node says 100 by itself before anybody is asked.
      expect(await statuses(["Idempotency-Key: a, b"], "hello")).toEqual([100, 400]);
      expect(await statuses([KEY], "x".repeat(11))).toEqual([100, 413]);
      await assertNothingRan(application);
      expect(await statuses([KEY], "hello")).toEqual([100, 200]);
      const unknown = await speak(port, lastRequest([KEY, "Expect: something"], ""));
      expect(unknown.map(({ status }) => status)).toEqual([417]);
      expect(runs()).toBe(1);
    });

    test("an upgrade that the server does not know is a request like others", async () => {
      const { port, runs } = await serve(serving);
      for (const protocol of ["websocket", "h2c"]) {
        const lines = [`Connection: Upgrade, close`, `Upgrade: ${protocol}`, KEY];
        const answer = await only(port, request(lines, ""));
        expect([answer.status, answer.body]).toEqual([200, '{"run":1}']);
      }
      expect(runs()).toBe(1);
    });

    test("HTTP-5: targets count as they were sent", async () => {
      const { port, runs } = await serve(serving);
      const targets = [
        "/a",
        "//a",
        "/a/",
        "/A",
        "/%61",
        "/a?",
        "/a?b",
        "/a?b&",
        `/${"a".repeat(8_000)}`,
      ];
      for (const [index, target] of targets.entries()) {
        const ask = (key: string) =>
          only(port, lastRequest([`Idempotency-Key: ${key}`], "", `POST ${target} HTTP/1.1`));
        const answer = await ask("k");
        // `URL` drops a `?` that nothing follows, so that `Request` cannot tell these two apart.
        const isLikeFirst = index === 0 || (name === "fetch" && target === "/a?");
        expect(answer.status, target).toBe(isLikeFirst ? 200 : 422);
        expect((await ask(`k${index}`)).status, target).toBe(200);
      }
      expect(runs()).toBe(targets.length + 1);
    });

    test("a head beyond Node's 16 KiB is 431, and nothing runs", async () => {
      const application = await serve(serving);
      const { port } = application;
      for (const bytes of [
        lastRequest([KEY, `X-Long: ${"x".repeat(20_000)}`], ""),
        lastRequest([`Idempotency-Key: ${"k".repeat(20_000)}`], ""),
        lastRequest([KEY], "", `POST /${"a".repeat(20_000)} HTTP/1.1`),
        lastRequest([...Array(10_000).fill("X-A: b"), KEY], ""),
      ]) {
        expect((await only(port, bytes)).status).toBe(431);
      }
      await assertNothingRan(application);
    });

    // Fastify and `Request` are given what Node read, and cannot know of lines that it dropped.
    const isTold = name !== "fetch";
    test.runIf(isTold)(
      "HTTP-1: a key, or a length, behind 1,000 short lines is not overlooked: refused, nothing runs",
      async () => {
        const short = (lines: number) => Array(lines).fill("a:");
        const application = await serve(serving);
        const { port, runs } = application;
        for (const lines of [1_100, 10_000]) {
          expectRefused(await only(port, lastRequest([...short(lines), KEY], "x")));
        }
        expectRefused(await only(port, lastRequest([KEY, ...short(1_100)], "x")));
        await assertNothingRan(application);
        expect((await only(port, lastRequest([...short(900), KEY], "x"))).status).toBe(200);
        expect(runs()).toBe(1);
      },
    );

    test("HTTP-1: where the server reads any number of lines, so do keys", async () => {
      const { port, runs } = await serve(serving, {
        server: (server) => {
          server.maxHeadersCount = 0;
        },
      });
      for (let n = 0; n < 2; n++) {
        const answer = await only(port, lastRequest([...Array(10_000).fill("a:"), KEY], "x"));
        expect(answer.status).toBe(200);
      }
      expect(runs()).toBe(1);
    });

    test("a head or a body that comes too slowly ends with 408, and nothing runs", async () => {
      const application = await serve(serving, {
        server: (server) => {
          // The server's own limits, and how often it looks.
          const limits = {
            headersTimeout: 50,
            requestTimeout: 100,
            connectionsCheckingInterval: 20,
          };
          Object.assign(server, limits);
        },
      });
      for (const begun of [
        `POST / HTTP/1.1\r\nHost: a\r\n${KEY}\r\n`,
        `POST / HTTP/1.1\r\nHost: a\r\n${KEY}\r\nContent-Length: 10\r\n\r\nhello`,
      ]) {
        const answers = await speak(application.port, begun);
        expect(answers.map(({ status }) => status)).toEqual([408]);
      }
      await assertNothingRan(application);
    });

    test("a client that closes its half in the body gets nothing run", async () => {
      const application = await serve(serving);
      const socket = connect(application.port, "127.0.0.1");
      const closed = new Promise((resolve) => socket.once("close", resolve));
      socket.on("error", () => {}).resume();
      socket.end(`POST / HTTP/1.1\r\nHost: a\r\n${KEY}\r\nContent-Length: 10\r\n\r\nhello`);
      await closed;
      await assertNothingRan(application);
    });

    test("HTTP/1.0 has keys as well", async () => {
      const { port, runs } = await serve(serving);
      for (const replayed of [undefined, "true"]) {
        // `@hono/node-server` asks for a host in HTTP/1.0 as well.
        const lines = [...(name.startsWith("Hono") ? ["Host: a"] : []), KEY, "Content-Length: 0"];
        const answer = await only(port, `POST / HTTP/1.0\r\n${lines.join("\r\n")}\r\n\r\n`);
        expect([answer.status, line(answer, "idempotent-replayed")]).toEqual([200, replayed]);
      }
      expect(runs()).toBe(1);
    });

    test("what follows a refused body on the same connection is a request of its own", async () => {
      const { port, runs } = await serve(serving, { http: () => ({ maxBodyBytes: 10 }) });
      const client = await RawClient.connect(port);
      client.write(request([KEY], lastRequest(["Idempotency-Key: hidden"], "")));
      await client.receives("body-too-large");
      client.write(lastRequest(["Idempotency-Key: honest"], ""));
      await client.ended();
      expect(client.text.match(/HTTP\/1\.1 \d+/g)).toEqual(["HTTP/1.1 413", "HTTP/1.1 200"]);
      expect(runs()).toBe(1);
    });
  });
}
