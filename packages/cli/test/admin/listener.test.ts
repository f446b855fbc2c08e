// The admin listener of a real gateway: health, who is served, headers, live events, and what it logs.

import { once } from "node:events";
import { writeFile } from "node:fs/promises";
import { request } from "node:http";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { afterEach, describe, expect, test } from "vitest";
import { cleanUp, folder, gateway, semel, started, upstream } from "../processes.ts";
import { message, rawConnection } from "../raw-http.ts";
import { administered, adminUrl, api, ask, SCOPE, TOKEN } from "./administering.ts";

afterEach(cleanUp);

describe("health (GW-5)", () => {
  test("both listeners say that they live and can serve, and probes never reach the upstream", async () => {
    const { process, url, charges } = await administered();
    for (const base of [url, process.url]) {
      expect(await (await fetch(`${base}/-/healthz`)).text()).toBe("ok\n");
      expect(await (await fetch(`${base}/-/readyz`)).text()).toBe("ready\n");
      expect((await fetch(`${base}/-/readyz`, { method: "HEAD" })).status).toBe(200);
    }
    expect(charges()).toBe(0);
    expect(process.log.filter(({ event }) => event === "request")).toEqual([]);
  });

  test("who drains takes no new requests, and tells on the admin listener that it is not ready", async () => {
    const open: (() => void)[] = [];
    const behind = await upstream((_request, response) => {
      open.push(() => response.end("late"));
    });
    const process = await gateway(behind.url, ...["--scope", "shared", "--admin", "127.0.0.1:0"]);
    const pending = fetch(process.url, { method: "POST", headers: { "idempotency-key": "k" } });
    await until(() => open.length === 1);
    process.child.kill("SIGTERM");
    await process.logged(({ event }) => event === "stopping");
    const admin = adminUrl(process);
    const answer = await fetch(`${admin}/-/readyz`);
    expect([answer.status, await answer.text()]).toEqual([503, "stopping\n"]);
    expect((await fetch(`${admin}/-/healthz`)).status).toBe(200);
    await expect(fetch(`${process.url}/-/readyz`)).rejects.toThrow();
    open[0]!();
    expect(await (await pending).text()).toBe("late");
  });
});

test("a target that is no address is refused, and nothing fails", async () => {
  const { process, url } = await administered();
  for (const target of ["//[", "http://[", "/\\\\["]) {
    const client = await rawConnection(Number(new URL(url).port));
    client.write(message(`GET ${target} HTTP/1.1`, "Host: localhost", "Connection: close"));
    expect(await client.closed(), target).toMatch(/^HTTP\/1\.1 400 .*target-invalid/s);
  }
  expect(process.log.filter(({ level }) => level === "error")).toEqual([]);
});

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await delay(5);
}

describe("who is served", () => {
  test("with a token nothing but health and the empty page is told to who has none", async () => {
    const { url } = await administered("--admin-token", TOKEN);
    for (const path of [
      "/-/api/overview",
      "/-/api/records",
      "/-/api/events",
      "/-/metrics",
      "/-/api/record?key=k",
    ]) {
      const refused = await ask(url, path);
      expect(refused.status, path).toBe(401);
      expect(refused.json).toEqual({
        code: "token-needed",
        detail: "Send the admin token as a bearer, or log in",
      });
      const wrong = await ask(url, path, { headers: { authorization: `Bearer ${TOKEN}x` } });
      expect([wrong.status, wrong.json], path).toEqual([401, refused.json]);
    }
    const session = await ask(url, "/-/api/session");
    expect(session.json).toEqual({ admitted: false, hasToken: true });
    expect((await fetch(`${url}/-/healthz`)).status).toBe(200);
    expect((await fetch(url)).status).toBe(200);

    const bearer = { authorization: `Bearer ${TOKEN}` };
    expect((await ask(url, "/-/api/overview", { headers: bearer })).status).toBe(200);
  });

  test("a session is begun with the token, and ended", async () => {
    const { url } = await administered("--admin-token", TOKEN);
    const wrong = await ask(url, "/-/api/login", { body: { token: "wrong" } });
    expect([wrong.status, wrong.headers.get("set-cookie")]).toEqual([401, null]);
    const right = await ask(url, "/-/api/login", { body: { token: TOKEN } });
    const cookie = right.headers.get("set-cookie")!.split(";")[0]!;
    expect(right.status).toBe(200);
    expect((await ask(url, "/-/api/session", { headers: { cookie } })).json).toMatchObject({
      admitted: true,
    });
    expect((await ask(url, "/-/api/overview", { headers: { cookie } })).status).toBe(200);
    const left = await ask(url, "/-/api/logout", { headers: { cookie }, body: {} });
    expect(left.headers.get("set-cookie")).toMatch(/=; .*Max-Age=0/);
  });

  test("a page of another site can change nothing, also where there is no token", async () => {
    const { url, pay } = await administered();
    await pay("held", "/broken");
    const body = { key: "held", scope: SCOPE, outcome: "not-applied" };
    for (const headers of [
      { "x-semel-request": "x", origin: "http://evil.test" },
      { "x-semel-request": "x", "sec-fetch-site": "cross-site" },
    ]) {
      const refused = await ask(url, "/-/api/resolve", { headers, body });
      expect([refused.status, refused.json.code]).toEqual([403, "origin-refused"]);
    }
    const simple = await fetch(`${url}/-/api/resolve`, {
      method: "POST",
      body: JSON.stringify(body),
    });
    expect(simple.status).toBe(403);
    const { port } = new URL(url);
    const rebound = request({ port, path: "/-/api/records", headers: { host: "evil.test" } }).end();
    const [response] = await once(rebound, "response");
    expect(response.statusCode).toBe(421);
    response.resume();
    expect((await api.record(url, "held")).record.state).toBe("held");
  });

  const REFUSED: [flags: string[], says: RegExp][] = [
    [["--admin", "0.0.0.0:0"], /--admin 0\.0\.0\.0: .*needs a token: SEMEL_ADMIN_TOKEN/],
    [["--admin", "[::]:0"], /needs a token/],
    [["--admin", "127.0.0.1:0", "--admin-token", "short"], /at least 16 printable/],
    [["--admin", "127.0.0.1:0", "--admin-token-file", "/does/not/exist"], /cannot be read/],
    [["--admin", "nonsense"], /--admin.*Write HOST:PORT/],
  ];
  for (const [flags, says] of REFUSED) {
    test(`it refuses to start, and says why: ${flags.join(" ")}`, async () => {
      const target = ["--upstream", "http://127.0.0.1:9", "--store", "memory:"];
      const refused = await semel("gateway", ...target, "--listen", "127.0.0.1:0", ...flags);
      expect(refused).toMatchObject({ code: 2, stdout: "", stderr: expect.stringMatching(says) });
      expect(refused.stderr).not.toContain("short");
    });
  }

  test("an address in use is told with the flag to change", async () => {
    const taken = await upstream((_request, response) => response.end());
    const target = ["--upstream", "http://127.0.0.1:9", "--store", "memory:"];
    const refused = await semel(
      ...["gateway", ...target, "--listen", "127.0.0.1:0"],
      ...["--admin", `127.0.0.1:${taken.port}`],
    );
    expect(refused).toMatchObject({ code: 1 });
    expect(refused.stderr).toContain(`--admin 127.0.0.1:${taken.port}: the address is in use`);
  });

  test("with a token, from a file or the environment, it listens everywhere", async () => {
    const path = join(await folder(), "token");
    await writeFile(path, `${TOKEN}\n`);
    const behind = await upstream((_request, response) => response.end());
    const fromFile = await gateway(behind.url, "--admin", "0.0.0.0:0", "--admin-token-file", path);
    const fromEnvironment = await started(["gateway", "--json"], {
      SEMEL_UPSTREAM: behind.url,
      SEMEL_LISTEN: "127.0.0.1:0",
      SEMEL_STORE: "memory:",
      SEMEL_ADMIN: "0.0.0.0:0",
      SEMEL_ADMIN_TOKEN: TOKEN,
      SEMEL_REQUIRED: "false",
      SEMEL_MAX_BODY: "",
    });
    for (const process of [fromFile, fromEnvironment]) {
      const url = adminUrl(process).replace("0.0.0.0", "127.0.0.1");
      const bearer = { authorization: `Bearer ${TOKEN}` };
      expect((await ask(url, "/-/api/overview", { headers: bearer })).status).toBe(200);
      expect((await ask(url, "/-/api/overview")).status).toBe(401);
      expect(JSON.stringify(process.log) + process.stderr()).not.toContain(TOKEN);
    }
    const open = await fetch(fromEnvironment.url, { method: "POST" });
    expect(open.status).toBe(200);
  });
});

test("every answer forbids what a page could be made to do", async () => {
  const { url } = await administered();
  const page = await fetch(url);
  const policy = page.headers.get("content-security-policy")!;
  expect(policy).toContain("default-src 'none'");
  expect(policy).not.toMatch(/unsafe|\*|data:|https?:/);
  const text = await page.text();
  expect(text).not.toMatch(/<style|style=|<script(?![^>]*src="\.\/)|https?:\/\/(?!www\.w3\.org)/);
  for (const path of ["/", "/-/api/session", "/-/api/overview", "/-/healthz", "/nothing"]) {
    const { headers } = await fetch(url + path);
    expect(headers.get("x-content-type-options"), path).toBe("nosniff");
    expect(headers.get("x-frame-options"), path).toBe("DENY");
    expect(headers.get("cross-origin-resource-policy"), path).toBe("same-origin");
  }
  for (const path of ["/../package.json", "/%2e%2e/main.js", "/assets/../../main.js", "/assets"]) {
    expect((await fetch(url + path)).status, path).toBe(404);
  }
});

test("what happens is told live, with names, to everybody who watches", async () => {
  const { url, pay } = await administered();
  const abort = new AbortController();
  const stream = await fetch(`${url}/-/api/events`, { signal: abort.signal });
  expect(stream.headers.get("content-type")).toBe("text/event-stream");
  let told = "";
  const reading = (async () => {
    const decoder = new TextDecoder();
    for await (const chunk of stream.body!) told += decoder.decode(chunk, { stream: true });
  })().catch(() => {});
  await pay("live-1");
  await pay("live-1");
  await until(() => /event: sightings\n/.test(told) && /event: census\n/.test(told));
  abort.abort();
  await reading;
  const messages = [...told.matchAll(/^event: sightings\ndata: (.*)$/gm)].flatMap(([, data]) =>
    JSON.parse(data!),
  );
  expect(messages).toEqual(
    expect.arrayContaining([
      expect.objectContaining({ what: "executed", name: { scope: SCOPE, key: "live-1" } }),
      expect.objectContaining({ what: "replayed", cached: true }),
    ]),
  );
  const { samples, sightings } = await api.overview(url);
  const flows = samples.map(({ flows }) => flows);
  expect(flows.reduce((sum, { executed }) => sum + executed, 0)).toBe(1);
  expect(flows.reduce((sum, { replayed }) => sum + replayed, 0)).toBe(1);
  expect(sightings[0]).toMatchObject({ what: "replayed" });
});

test("decisions are logged by the record's id, without its key; nothing secret is logged at all", async () => {
  const { process, url, pay } = await administered("--admin-token", TOKEN);
  await pay("secret-key", "/broken");
  const bearer = { authorization: `Bearer ${TOKEN}` };
  const body = { key: "secret-key", scope: SCOPE, outcome: "not-applied" };
  const resolved = await ask(url, "/-/api/resolve", { headers: bearer, body });
  expect(resolved.json).toEqual({ done: true });
  const decided = await process.logged(({ event }) => event === "decided");
  expect(decided).toMatchObject({ level: "info", decision: "resolve", answer: "resolved" });
  expect(decided["id"]).toMatch(/^[0-9a-f]{32}$/);
  const written = JSON.stringify(process.log) + process.stderr();
  expect(written).not.toMatch(/secret-key|acme/);
  expect(written).not.toContain(TOKEN);
});

test("an upstream that broke off is a warning, with what it was", async () => {
  const { process, pay } = await administered();
  await pay("held", "/broken");
  const line = await process.logged(({ event, path }) => event === "request" && path === "/broken");
  expect(line).toMatchObject({ level: "warn", status: 502, broken: expect.any(String) });
  expect(line).toHaveProperty("time", expect.stringMatching(/^\d{4}-\d\d-\d\dT.*Z$/));
});
