// Whose answer it is, and what gets told: a replay is for the credential that made it (GW-2), and
// neither logs nor refusals hold keys, credentials or payloads (GW-5).

import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { afterEach, expect, test } from "vitest";
import { cleanUp, folder, gateway } from "../processes.ts";
import { message, rawConnection } from "../raw-http.ts";
import { recordingUpstream } from "./recording-upstream.ts";

afterEach(cleanUp);

const BODY = "card-4111";

async function ask(port: number, ...lines: string[]): Promise<string> {
  const client = await rawConnection(port);
  const head = message(
    "POST /pay HTTP/1.1",
    ...["Host: a", "Connection: close", ...lines, `Content-Length: ${BODY.length}`],
  );
  client.write(head + BODY);
  return client.closed();
}

const timeless = (answer: string) => answer.replace(/^(?:date|idempotency-expires):.*\r\n/gim, "");

const CALLERS: Readonly<Record<string, readonly string[]>> = {
  authorization: [
    "Authorization: Bearer alice",
    "Authorization: bearer alice",
    "Authorization: Bearer  alice",
    "Authorization: Bearer Alice",
    "Authorization: Bearer alice\xa0",
    "Authorization: \xa0Bearer alice",
    "Authorization: Bearer alic\xe9",
    "Authorization: Bearer alic\xc3\xa9",
    "Authorization: Bearer alice, Bearer bob",
    "Authorization: alice",
  ],
  "header:X-Account": [
    "X-Account: a",
    "X-Account: A",
    "X-Account: a\xa0",
    "X-Account: \xa0a",
    "X-Account: a, b",
    "X-Account: __proto__",
    "X-Account: a:k",
    "X-Account: a%20",
  ],
};

for (const [scope, callers] of Object.entries(CALLERS)) {
  test(`GW-2: by ${scope}, no two callers share an answer, and none learns of another's`, async () => {
    const behind = await recordingUpstream();
    const { port } = await gateway(behind.url, "--scope", scope);
    for (const [index, caller] of callers.entries()) {
      const used = await ask(port, caller, "Idempotency-Key: same");
      expect(used, caller).toContain(`{"run":${index * 2 + 1}}`);
      const unused = await ask(port, caller, `Idempotency-Key: never-${index}`);
      const sameRun = (text: string) =>
        timeless(text)
          .replace(/\{"run":\d+\}/, "{}")
          .replace(/^Content-Length: \d+/im, "");
      expect(sameRun(used), caller).toBe(sameRun(unused));
    }
    for (const [index, caller] of callers.entries()) {
      const again = await ask(port, caller, "Idempotency-Key: same");
      expect(again).toContain("idempotent-replayed: true");
      expect(again).toContain(`{"run":${index * 2 + 1}}`);
    }
    expect(behind.seen).toHaveLength(callers.length * 2);
  });

  test(`GW-2: by ${scope}, nobody and two callers at once are 401, and nothing gets behind`, async () => {
    const behind = await recordingUpstream();
    const { port } = await gateway(behind.url, "--scope", scope);
    const [one, other] = callers as [string, string];
    await ask(port, one, "Idempotency-Key: same");
    const name = one.split(":", 1)[0]!;
    for (const lines of [
      [],
      [`${name}:`],
      [`${name}: \t`],
      [one, other],
      [one, one],
      [`${name}:`, one],
    ]) {
      const seen = await ask(port, ...lines, "Idempotency-Key: same");
      expect(seen).toMatch(/^HTTP\/1\.1 401 /);
      expect(timeless(seen)).toBe(timeless(await ask(port, ...lines, "Idempotency-Key: never")));
      expect(seen).not.toMatch(/alice|same|card-/);
    }
    // A header that a server could take for the one that counts does not get behind.
    const disguised = one.replace("X-Account", "X_Account");
    if (disguised !== one) await ask(port, disguised);
    expect(behind.seen).toHaveLength(disguised === one ? 1 : 2);
    expect(behind.seen.at(-1)!.fields.join()).not.toContain("X_Account");
  });
}

test("GW-5: the log holds no key, credential, payload, query, fragment or part of an address", async () => {
  const behind = await recordingUpstream();
  const path = join(await folder(), "semel.db");
  const front = await gateway(behind.url, "--store", `sqlite:${path}`);
  const send = async (target: string, ...lines: string[]) => {
    const client = await rawConnection(front.port);
    client.write(message(`POST ${target} HTTP/1.1`, "Host: a", "Connection: close", ...lines));
    return client.closed();
  };
  const own = ["Authorization: Bearer secret-token", "Idempotency-Key: secret-key"];
  const answers = [
    await send("/run?secret-query", ...own, "Cookie: secret-cookie", "Content-Length: 0"),
    await send("/run?secret-query", ...own, "Content-Length: 0"),
    await send("/mismatch?secret-query", ...own, "Content-Length: 0"),
    await send("/plain?secret-query", "Authorization: Bearer secret-token", "Content-Length: 0"),
    await send("/twice", ...own, "Idempotency-Key: secret-other", "Content-Length: 0"),
    await send("/nobody", "Idempotency-Key: secret-key", "Content-Length: 0"),
    await send("/fragment#secret-fragment", "Content-Length: 0"),
    await send("http://secret-user:secret-password@a/", "Content-Length: 0"),
    await send("http://a/absolute?secret-query", ...own, "Content-Length: 0"),
    await send("http://a?secret-query", "Content-Length: 0"),
    await send("secret-authority:443", "Content-Length: 0"),
    await send(
      "/upgrade?secret-query",
      "Connection: Upgrade",
      "Upgrade: secret-protocol",
      "Content-Length: 0",
    ),
    await ask(front.port, ...own),
  ];
  for (const answer of answers) expect(answer).not.toMatch(/secret|card-/);
  await front.logged(({ path: logged }) => logged === "/upgrade");
  expect(await front.end("SIGTERM")).toBe(0);
  const requests = front.log.filter(({ event }) => event === "request");
  expect(requests.map(({ path: logged, status }) => [logged, status])).toEqual([
    ["/run", 200],
    ["/run", 200],
    ["/mismatch", 422],
    ["/plain", 200],
    ["/twice", 400],
    ["/nobody", 401],
    ["/fragment", 400],
    ["(not a path)", 400],
    ["/absolute", 422],
    ["/", 200],
    ["/upgrade", 200],
    ["/pay", 422],
  ]);
  const told = JSON.stringify(front.log) + front.stderr();
  expect(told).not.toMatch(/secret|card-/);
  // Nor is a credential to be found in the store.
  for (const file of await readdir(join(path, ".."))) {
    const kept = await readFile(join(path, "..", file), "latin1");
    expect(kept, file).not.toMatch(/secret-(token|cookie|query)|card-/);
  }
});

test("GW-5: an upstream that cannot be reached, or breaks off, is told of without what was sent", async () => {
  const front = await gateway("http://127.0.0.1:1");
  const answer = await ask(
    front.port,
    "Authorization: Bearer secret-token",
    "Idempotency-Key: secret-key",
  );
  expect(answer).toMatch(/^HTTP\/1\.1 502 /);
  const entry = await front.logged(({ path }) => path === "/pay");
  expect(entry).toMatchObject({ status: 502, idempotency: "released" });
  expect(answer + JSON.stringify(front.log) + front.stderr()).not.toMatch(/secret|card-/);
});
