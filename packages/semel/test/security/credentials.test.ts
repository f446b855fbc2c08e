// An answer is for the credential that asked for it: another one with the same key learns neither
// the answer nor that there is one (HTTP-4), and a mismatch does not tell what it missed (SM-2).

import { createHash } from "node:crypto";
import { afterEach, describe, expect, test } from "vitest";
import type { FieldOf } from "../../src/testing/framework-suite/index.ts";
import { ADAPTERS, closeAll, serve } from "./applications.ts";
import { code, lastRequest, line, only, type RawAnswer, told } from "./raw.ts";

afterEach(closeAll);

const SECRET = "4111-1111-1111-1111";
const KEY = "order-8e03978e";

/** The scope as an application makes it of a credential. */
const byCredential =
  <Request>(field: FieldOf<Request>) =>
  (request: Request) => {
    const credential = field(request, "authorization");
    return credential && createHash("sha256").update(credential).digest("hex");
  };

/** Credentials of which each is another caller than `Bearer alice`. */
const OTHERS = [
  "Bearer bob",
  "bearer alice",
  "BEARER alice",
  "Bearer  alice",
  "Bearer Alice",
  "Bearer alice\xa0",
  "Bearer alice,",
  "alice",
  "Basic alice",
];

const ask = (port: number, lines: readonly string[], body = `{"card":"${SECRET}"}`, key = KEY) =>
  only(
    port,
    lastRequest(["Content-Type: application/json", `Idempotency-Key: ${key}`, ...lines], body),
  );

function assertTellsNothing(answer: RawAnswer): void {
  const text = JSON.stringify(answer);
  for (const secret of [SECRET, "order-", "alice", "private"]) expect(text).not.toContain(secret);
}

for (const [name, serving] of Object.entries(ADAPTERS)) {
  describe(`${name}: credentials`, () => {
    const serveCallers = () =>
      serve(serving, {
        http: (field) => ({ scope: byCredential(field) }),
        answer: (run) => ({
          headers: [["etag", `"private-${run}"`]],
          body: run === 1 ? "private to alice" : "another's",
        }),
      });

    test("HTTP-4: another credential's answer is byte for byte that of a key never used", async () => {
      const used = await serveCallers();
      const unused = await serveCallers();
      expect((await ask(used.port, ["Authorization: Bearer alice"])).body).toBe("private to alice");
      // The same run number there, under a key and a credential that nobody else has.
      await ask(unused.port, ["Authorization: Bearer carol"], "x", "unrelated");
      for (const [index, other] of OTHERS.entries()) {
        const seen = await ask(used.port, [`Authorization: ${other}`]);
        const never = await ask(unused.port, [`Authorization: ${other}`]);
        expect(seen.body, other).toBe("another's");
        expect(told(seen), other).toEqual(told(never));
        expect(used.runs(), other).toBe(index + 2);
      }
      const again = await ask(used.port, ["Authorization: Bearer alice"]);
      expect([again.body, line(again, "idempotent-replayed")]).toEqual([
        "private to alice",
        "true",
      ]);
      expect(used.runs()).toBe(OTHERS.length + 1);
    });

    test("HTTP-4: no credential is 401, the same for a key in use and one never used", async () => {
      const { port, runs } = await serveCallers();
      await ask(port, ["Authorization: Bearer alice"]);
      for (const lines of [[], ["Authorization:"], ["Authorization: \t "]]) {
        const seen = await ask(port, lines);
        expect([seen.status, code(seen)]).toEqual([401, "scope-missing"]);
        expect(told(seen)).toEqual(told(await ask(port, lines, "x", "unused")));
        assertTellsNothing(seen);
      }
      expect(runs()).toBe(1);
    });

    test("SM-2: a mismatch is the same answer whatever is stored, and whatever came", async () => {
      const mismatches = new Set<string>();
      for (const stored of [SECRET, "x", "y".repeat(5_000)]) {
        const { port, runs } = await serveCallers();
        await ask(port, ["Authorization: Bearer alice"], stored);
        for (const sent of ["", "z", "z".repeat(5_000)]) {
          const answer = await ask(port, ["Authorization: Bearer alice"], sent);
          expect([answer.status, code(answer)]).toEqual([422, "key-reused"]);
          assertTellsNothing(answer);
          mismatches.add(JSON.stringify(told(answer)));
        }
        expect(runs()).toBe(1);
      }
      expect(mismatches.size).toBe(1);
    });

    test("SM-2: while the first one runs, another payload hears of a mismatch and no more", async () => {
      let start = () => {};
      let end = () => {};
      const started = new Promise<void>((resolve) => {
        start = resolve;
      });
      const ended = new Promise<void>((resolve) => {
        end = resolve;
      });
      const { port, runs } = await serve(serving, {
        answer: async () => {
          start();
          await ended;
          return { body: "done" };
        },
      });
      const first = ask(port, []);
      await started;
      const [other, same] = [await ask(port, [], "other"), await ask(port, [])];
      end();
      expect([other.status, code(other)]).toEqual([422, "key-reused"]);
      expect([same.status, code(same)]).toEqual([409, "operation-in-progress"]);
      for (const answer of [other, same]) assertTellsNothing(answer);
      expect((await first).body).toBe("done");
      expect(runs()).toBe(1);
    });

    test("a repeated Authorization never lends one caller the other's answer", async () => {
      const { port, runs } = await serveCallers();
      await ask(port, ["Authorization: Bearer alice"]);
      for (const lines of [
        ["Authorization: Bearer bob", "Authorization: Bearer alice"],
        ["Authorization: Bearer bob, Bearer alice"],
      ]) {
        const answer = await ask(port, lines);
        expect([answer.status, answer.body]).toEqual([200, "another's"]);
      }
      expect(runs()).toBeGreaterThan(1);
    });
  });
}
