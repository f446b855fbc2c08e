// Callers whom a token or a service names (GW-2): only after they were verified, and nobody learns why
// he was refused, nor anything of keys.

import { createServer, type IncomingMessage } from "node:http";
import { exportJWK, generateKeyPair, type JWTPayload, SignJWT, UnsecuredJWT } from "jose";
import { afterEach, beforeAll, expect, test } from "vitest";
import { cleanUp, gateway, upstream } from "../processes.ts";

afterEach(cleanUp);

type Keys = Awaited<ReturnType<typeof generateKeyPair>>;
let first: Keys;
let second: Keys;

beforeAll(async () => {
  first = await generateKeyPair("ES256", { extractable: true });
  second = await generateKeyPair("ES256", { extractable: true });
});

const ISSUER = "https://issuer.test/";

async function token(
  claims: JWTPayload = {},
  { keys = first, kid = "first" }: { keys?: Keys; kid?: string } = {},
): Promise<string> {
  const payload = { sub: "alice", iss: ISSUER, aud: "payments", ...claims };
  const signed = new SignJWT(payload).setProtectedHeader({ alg: "ES256", kid });
  if (!("exp" in claims)) signed.setExpirationTime("1h");
  return signed.sign(keys.privateKey);
}

/** A key set that can change, or fail. */
async function keySet() {
  const state = { kids: ["first"], isDown: false, fetches: 0 };
  const pairs: Record<string, Keys> = { first, second };
  const served = await upstream(async (_request, response) => {
    state.fetches++;
    if (state.isDown) return void response.writeHead(500).end();
    const keys = await Promise.all(
      state.kids.map(async (kid) => ({ ...(await exportJWK(pairs[kid]!.publicKey)), kid })),
    );
    response.end(JSON.stringify({ keys }));
  });
  return { ...served, state };
}

async function service() {
  const seen: IncomingMessage[] = [];
  const behind = await upstream((request, response) => {
    seen.push(request);
    request.resume().on("end", () => response.writeHead(201).end(`charge ${seen.length}`));
  });
  return { ...behind, seen };
}

async function post(url: string, bearer: string | undefined, key = "k") {
  const response = await fetch(url, {
    method: "POST",
    headers: { "idempotency-key": key, ...(bearer && { authorization: `Bearer ${bearer}` }) },
    body: "pay",
  });
  const state = response.headers.get("idempotency-status");
  return { status: response.status, state, text: await response.text(), headers: response.headers };
}

const flagsOf = (jwks: string) => [
  ...["--scope", "jwt:sub", "--jwks", jwks],
  ...["--jwt-issuer", ISSUER, "--jwt-audience", "payments"],
];

test("another token of the same caller is the same caller, and another caller is not", async () => {
  const [keys, behind] = [await keySet(), await service()];
  const { url } = await gateway(behind.url, ...flagsOf(keys.url));
  expect(await post(url, await token())).toMatchObject({ state: "executed", text: "charge 1" });
  const refreshed = await token({ jti: "another" });
  expect(await post(url, refreshed)).toMatchObject({ state: "replayed", text: "charge 1" });
  const bob = await token({ sub: "bob" });
  expect(await post(url, bob)).toMatchObject({ state: "executed", text: "charge 2" });
  expect(behind.seen[0]!.headers.authorization, "the service's own to read").toMatch(/^Bearer /);
  expect(keys.state.fetches).toBe(1);
});

test("whatever is wrong with a token, the answer is the same, and nothing gets behind", async () => {
  const [keys, behind] = [await keySet(), await service()];
  const { url, log, stderr } = await gateway(behind.url, ...flagsOf(keys.url));
  await post(url, await token());
  const [head, , signature] = (await token()).split(".") as [string, string, string];
  const forged = Buffer.from(JSON.stringify({ sub: "alice" })).toString("base64url");
  const wrong: Record<string, string | undefined> = {
    none: undefined,
    "no token": "abc",
    expired: await token({ exp: Math.floor(Date.now() / 1_000) - 60 }),
    "not yet": await token({ nbf: Math.floor(Date.now() / 1_000) + 60 }),
    "of another issuer": await token({ iss: "https://evil.test/" }),
    "for somebody else": await token({ aud: "mail" }),
    "by another key": await token({}, { keys: second }),
    "by an unknown key": await token({}, { keys: second, kid: "nowhere" }),
    forged: `${head}.${forged}.${signature}`,
    unsigned: new UnsecuredJWT({ sub: "alice" }).encode(),
    "of nobody": await token({ sub: "" }),
    "of several": await token({ sub: ["alice"] as never }),
  };
  const answers = new Set<string>();
  for (const [what, bearer] of Object.entries(wrong)) {
    for (const key of ["k", "never"]) {
      const { status, text, headers } = await post(url, bearer, key);
      expect(status, what).toBe(401);
      expect(headers.get("www-authenticate")).toBe("Bearer");
      answers.add(text);
    }
  }
  expect([...answers]).toEqual([expect.stringContaining('"code":"scope-missing"')]);
  expect(behind.seen).toHaveLength(1);
  expect(JSON.stringify(log) + stderr()).not.toContain(signature);
});

test("a new key is fetched for, and nobody can have them fetched without end", async () => {
  const [keys, behind] = [await keySet(), await service()];
  const { url } = await gateway(behind.url, ...flagsOf(keys.url));
  const rotated = await token({}, { keys: second, kid: "second" });
  await post(url, await token());
  for (let i = 0; i < 5; i++) await post(url, await token({}, { keys: second, kid: `x${i}` }));
  expect(keys.state.fetches).toBeLessThanOrEqual(3);
  keys.state.kids = ["second"];
  let answer = await post(url, rotated, "rotated");
  while (answer.status === 401) {
    await new Promise((resolve) => setTimeout(resolve, 100));
    answer = await post(url, rotated, "rotated");
  }
  expect(answer).toMatchObject({ status: 201, state: "executed" });
});

test("where the keys cannot be fetched nothing runs, and those that are known go on to serve", async () => {
  const [keys, behind] = [await keySet(), await service()];
  keys.state.isDown = true;
  const { url } = await gateway(behind.url, ...flagsOf(keys.url));
  const refused = await post(url, await token());
  expect(refused).toMatchObject({ status: 503 });
  expect(refused.text).toContain("caller-unverifiable");
  expect(refused.headers.get("retry-after")).toBe("1");
  expect(behind.seen).toEqual([]);
  keys.state.isDown = false;
  let answer = await post(url, await token());
  while (answer.status === 503) {
    await new Promise((resolve) => setTimeout(resolve, 100));
    answer = await post(url, await token());
  }
  expect(answer).toMatchObject({ status: 201 });
  keys.state.isDown = true;
  expect(await post(url, await token(), "again")).toMatchObject({ status: 201 });
});

/** A service that says who callers are. */
async function authority() {
  const seen: IncomingMessage[] = [];
  const served = await upstream((request, response) => {
    seen.push(request);
    const [, who = ""] = (request.headers.authorization ?? "").split(" ");
    if (who === "silent") return;
    if (who === "nobody") {
      response.writeHead(401, { "www-authenticate": 'Custom realm="x"' });
      return void response.end("who are you?");
    }
    if (who === "forbidden") return void response.writeHead(403).end("not you");
    if (who === "broken") return void response.socket?.destroy();
    if (/^\d+$/.test(who)) return void response.writeHead(Number(who)).end();
    if (who !== "nameless") response.setHeader("X-Auth-Request-User", who.split("-")[0]!);
    response.end();
  });
  return { ...served, seen };
}

test("a service names the caller: it gets the head, and its answer decides", async () => {
  const [who, behind] = [await authority(), await service()];
  const scope = `auth-request:${who.url}/check?a=1`;
  const { url } = await gateway(behind.url, "--scope", scope, "--auth-timeout", "1s");
  expect(await post(`${url}/pay?b=2`, "alice-1")).toMatchObject({ text: "charge 1" });
  expect(await post(`${url}/pay?b=2`, "alice-2")).toMatchObject({ state: "replayed" });
  expect(await post(`${url}/pay?b=2`, "bob-1")).toMatchObject({ text: "charge 2" });
  const asked = who.seen[0]!;
  expect([asked.method, asked.url]).toEqual(["GET", "/check?a=1"]);
  expect(asked.headers).toMatchObject({
    "x-original-method": "POST",
    "x-original-uri": "/pay?b=2",
    authorization: "Bearer alice-1",
  });
  expect(asked.headers).not.toHaveProperty("content-type");

  const nobody = await post(url, "nobody");
  expect(nobody).toMatchObject({ status: 401, text: "who are you?" });
  expect(nobody.headers.get("www-authenticate")).toBe('Custom realm="x"');
  expect(await post(url, "forbidden")).toMatchObject({ status: 403, text: "not you" });
  for (const bearer of ["nameless", "silent", "broken", "500", "302", "404"]) {
    const answer = await post(url, bearer);
    expect(answer.status, bearer).toBe(503);
    expect(answer.text, bearer).toContain("caller-unverifiable");
  }
  expect(behind.seen).toHaveLength(2);
  const without = await fetch(url, { method: "POST", body: "plain" });
  expect(without.status, "who has no key is not asked who it is").toBe(201);
  expect(who.seen).toHaveLength(11);
});

test("the head that the service gets says nothing that only the gateway may say", async () => {
  const [who, behind] = [await authority(), await service()];
  const { url } = await gateway(behind.url, "--scope", `auth-request:${who.url}/check`);
  const headers = {
    ...{ authorization: "Bearer alice-1", "idempotency-key": "k" },
    ...{ "x-original-uri": "/public", X_Original_URI: "/public", "X-Original_Method": "GET" },
    ...{ Content_Length: "5" },
  };
  expect((await fetch(`${url}/pay`, { method: "POST", headers, body: "pay" })).status).toBe(201);
  const names = who.seen[0]!.rawHeaders.filter((_, at) => at % 2 === 0);
  expect(names.filter((name) => /original|content/i.test(name))).toEqual([
    ...["X-Original-Method", "X-Original-URI"],
  ]);
});

test("a service that cannot be reached lets nobody in", async () => {
  const behind = await service();
  const closed = createServer().listen(0);
  const { port } = closed.address() as { port: number };
  await new Promise((resolve) => closed.close(resolve));
  const { url } = await gateway(behind.url, "--scope", `auth-request:http://127.0.0.1:${port}/`);
  expect(await post(url, "alice")).toMatchObject({ status: 503 });
  expect(behind.seen).toEqual([]);
});
