// Who may use the admin listener: tokens, sessions, and pages of other sites (GW-5).

import type { IncomingMessage } from "node:http";
import { describe, expect, test } from "vitest";
import { Access, isLoopback } from "../../src/admin/access.ts";

const TOKEN = "correct-horse-battery";

function request(headers: Record<string, string>): IncomingMessage {
  return { headers: { host: "127.0.0.1:9090", ...headers } } as unknown as IncomingMessage;
}

/** The `Cookie` that a browser would send after a `Set-Cookie`. */
function returned(cookie: string): { cookie: string } {
  return { cookie: `other=1; ${cookie.slice(0, cookie.indexOf(";"))}` };
}

describe("with a token", () => {
  const access = new Access(TOKEN, { host: "0.0.0.0" });

  test("a bearer is admitted, every other one is not", () => {
    expect(access.isAdmitted(request({ authorization: `Bearer ${TOKEN}` }))).toBe(true);
    expect(access.isAdmitted(request({ authorization: `bearer  ${TOKEN}` }))).toBe(true);
    for (const authorization of [
      `Bearer ${TOKEN}x`,
      `Bearer ${TOKEN.slice(1)}`,
      `Bearer ${TOKEN.toUpperCase()}`,
      "Bearer ",
      `Basic ${TOKEN}`,
      TOKEN,
    ]) {
      expect(access.isAdmitted(request({ authorization })), authorization).toBe(false);
    }
    expect(access.isAdmitted(request({}))).toBe(false);
  });

  test("the token is exchanged for a session that no script can read and no other site sends", () => {
    const cookie = access.logIn(TOKEN, request({}))!;
    expect(cookie).toMatch(/; HttpOnly/);
    expect(cookie).toMatch(/; SameSite=Strict/);
    expect(cookie).not.toMatch(/; Secure/);
    expect(cookie).not.toContain(TOKEN);
    expect(access.isAdmitted(request(returned(cookie)))).toBe(true);
    expect(access.logIn("another", request({}))).toBeUndefined();
    const tls = access.logIn(TOKEN, request({ "x-forwarded-proto": "https" }));
    expect(tls).toMatch(/; Secure$/);
  });

  test("a session ends after twelve hours, and cannot be made longer, nor outlive its token", () => {
    let now = Date.UTC(2026, 0, 1);
    const aging = new Access(TOKEN, { host: "0.0.0.0" }, () => now);
    const session = returned(aging.logIn(TOKEN, request({}))!);
    now += 12 * 3_600_000 - 1;
    expect(aging.isAdmitted(request(session))).toBe(true);
    now += 1;
    expect(aging.isAdmitted(request(session))).toBe(false);
    const [, expires] = /_9090=(\d+)\./.exec(session.cookie)!;
    const longer = session.cookie.replace(expires!, String(Number(expires) + 1_000));
    expect(aging.isAdmitted(request({ cookie: longer }))).toBe(false);
    const fresh = returned(aging.logIn(TOKEN, request({}))!);
    const other = new Access("another-token-1234", { host: "0.0.0.0" }, () => now);
    expect(aging.isAdmitted(request(fresh))).toBe(true);
    expect(other.isAdmitted(request(fresh))).toBe(false);
    const ended = returned(aging.logOut(request({})));
    expect(aging.isAdmitted(request(ended))).toBe(false);
  });

  test("a session is for one port: cookies know none", () => {
    const cookie = access.logIn(TOKEN, request({}))!;
    expect(access.isAdmitted(request({ ...returned(cookie), host: "127.0.0.1:9091" }))).toBe(false);
  });

  test("a change needs the page's own header and origin, or the bearer", () => {
    const own = { "x-semel-request": "dashboard", origin: "http://127.0.0.1:9090" };
    expect(access.forged(request(own))).toBeUndefined();
    expect(access.forged(request({ "x-semel-request": "script" }))).toBeUndefined();
    expect(access.forged(request({ authorization: `Bearer ${TOKEN}` }))).toBeUndefined();
    for (const headers of [
      {},
      { origin: "http://127.0.0.1:9090" },
      { ...own, origin: "http://evil.test" },
      { ...own, origin: "http://127.0.0.1:9091" },
      { ...own, origin: "null" },
      { ...own, "sec-fetch-site": "cross-site" },
      { ...own, "sec-fetch-site": "same-site" },
    ]) {
      expect(access.forged(request(headers)), JSON.stringify(headers)).toMatchObject({
        status: 403,
      });
    }
  });
});

describe("without a token", () => {
  const access = new Access(undefined, { host: "127.0.0.1" });

  test("it is served under its own names only: a page that has its name point here is not", () => {
    for (const host of ["127.0.0.1:9090", "localhost:9090", "[::1]:9090", "LOCALHOST"]) {
      expect(access.misdirected(request({ host })), host).toBeUndefined();
    }
    for (const host of [
      "evil.test:9090",
      "localhost.evil.test",
      "127.0.0.1.evil.test",
      "",
      "a b",
    ]) {
      expect(access.misdirected(request({ host })), host).toMatchObject({ status: 421 });
    }
    const named = new Access(undefined, { host: "admin.internal" });
    expect(named.misdirected(request({ host: "admin.internal:9090" }))).toBeUndefined();
  });

  test("an unknown bearer makes no change less forged", () => {
    expect(access.forged(request({ authorization: "Bearer anything" }))).toMatchObject({
      status: 403,
    });
  });
});

test("loopback is what no other machine reaches", () => {
  const own = ["localhost", "127.0.0.1", "127.1.2.3", "::1"];
  const others = ["0.0.0.0", "::", "10.0.0.1", "127.evil.test", "example.com"];
  expect(own.filter(isLoopback)).toEqual(own);
  expect(others.filter(isLoopback)).toEqual([]);
});
