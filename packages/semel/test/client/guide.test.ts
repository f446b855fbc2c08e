// The guide for users of an API says what the library does, and its examples do what the guide says.

import { execFile } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { describe, expect, test } from "vitest";
import { ERROR_CODES, type ErrorCode, SemelError } from "../../src/errors.ts";
import { problemResponse } from "../../src/http/problem.ts";
import { paymentService } from "./fixture.ts";

const run = promisify(execFile);
const GUIDE = readFileSync(
  join(import.meta.dirname, "../../../../docs/for-api-clients.md"),
  "utf8",
);

function example(language: string): string {
  return new RegExp(`^\`\`\`${language}\n(.*?)^\`\`\``, "ms").exec(GUIDE)![1]!;
}

test("every code stands in the guide's table with its status and its advice, and no other does", () => {
  const rows = [...GUIDE.matchAll(/^\| (`[a-z-]+`(?:, `[a-z-]+`)*) \| (\d{3}) \| ([a-z-]+) \|/gm)];
  const documented = rows.flatMap(([, codes, status, retry]) =>
    codes!.split(", ").map((code) => [code.slice(1, -1), `${status} ${retry}`]),
  );
  const actual = Object.keys(ERROR_CODES).map((code) => {
    const error = new SemelError(code as ErrorCode, "m");
    const { status } = problemResponse(error, { documentation: undefined });
    return [code, `${status} ${error.retry}`];
  });
  expect(documented.sort()).toEqual(actual.sort());
});

test("every value of `Idempotency-Status` that the server sends is explained", () => {
  const sources = ["http/problem.ts", "http/exchange.ts"].map((file) =>
    readFileSync(join(import.meta.dirname, "../../src", file), "utf8"),
  );
  const refusals = /const STATUS_FIELD[^{]*\{(.*?)\};/s.exec(sources[0]!)![1]!;
  const sent = new Set([
    ...[...refusals.matchAll(/: "([a-z-]+)"/g)].map(([, value]) => value!),
    ...[...sources[1]!.matchAll(/"idempotency-status", "([a-z-]+)"/g)].map(([, value]) => value!),
  ]);
  expect(sent.size).toBeGreaterThan(7);
  const row = /^\| `Idempotency-Status` .*$/m.exec(GUIDE)![0];
  for (const value of sent) expect(row).toContain(`\`${value}\``);
});

/** A service that is down, then busy, then loses its answer, and has then made one payment. */
function troubledService() {
  let requests = 0;
  return paymentService({
    front: (request, response) => {
      requests++;
      if (requests === 1) response.writeHead(503, { "retry-after": "0" }).end();
      if (requests === 2) request.socket.destroy();
      if (requests !== 3) return requests < 3;
      // The payment is made; its answer goes nowhere.
      request.socket.write = () => {
        request.socket.destroy();
        return false;
      };
      return false;
    },
  });
}

const PROGRAMS: Record<string, (url: string) => [string, string[]]> = {
  js: (url) => [
    process.execPath,
    [
      "--input-type=module",
      "--eval",
      `${example("js")}
       const url = ${JSON.stringify(url)};
       const paid = await pay(url, { amount: 1200 }, "the-key");
       const reused = await pay(url, { amount: 9 }, "the-key");
       console.log(JSON.stringify([paid.status, JSON.parse(paid.answer), reused.status]));`,
    ],
  ],
  python: (url) => [
    "python3",
    [
      "-c",
      `${example("python")}
url = ${JSON.stringify(url)}
status, answer = pay(url, {"amount": 1200}, "the-key")
reused, _ = pay(url, {"amount": 9}, "the-key")
print(json.dumps([status, json.loads(answer), reused]))`,
    ],
  ],
};

const hasPython = await run("python3", ["--version"]).then(
  () => true,
  () => {
    if (process.env["SEMEL_REQUIRE_SERVICES"]) throw new Error("no python3 on this machine");
    return false;
  },
);

describe("the example in", () => {
  for (const [language, program] of Object.entries(PROGRAMS)) {
    const isSkipped = language === "python" && !hasPython;
    const reason = isSkipped ? " (skipped: no python3 on this machine)" : "";
    test.skipIf(isSkipped)(
      `${language} pays once through lost answers, and obeys the advice${reason}`,
      async () => {
        const service = await troubledService();
        const [command, args] = program(service.url);
        const { stdout } = await run(command, args);
        expect(JSON.parse(stdout)).toEqual([
          201,
          { payment: 1, order: expect.stringContaining("1200") },
          422,
        ]);
        expect(service.payments).toHaveLength(1);
        expect(service.seen).toHaveLength(5);
        const attempts = service.seen.slice(0, 4);
        const field = (name: string) => new Set(attempts.map(({ headers }) => headers[name]));
        expect([...field("idempotency-key")]).toEqual(['"the-key"']);
        expect(field("repeatability-first-sent").size).toBe(1);
        expect([...field("repeatability-first-sent")][0]).toMatch(/ GMT$/);
      },
    );
  }

  test("curl repeats what failed with the same key", async () => {
    let requests = 0;
    const service = await paymentService({
      front: (_request, response) => {
        if (++requests > 1) return false;
        response.writeHead(503, { "retry-after": "1" }).end();
        return true;
      },
    });
    const line = example("sh")
      .replace("$(uuidgen)", "the-key")
      .replace("https://api.example/payments", service.url);
    const { stdout } = await run("sh", ["-c", line]);
    expect(JSON.parse(stdout)).toMatchObject({ payment: 1 });
    expect(service.seen.map(({ headers }) => headers["idempotency-key"])).toEqual([
      '"the-key"',
      '"the-key"',
    ]);
  });
});
