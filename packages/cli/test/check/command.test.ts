// `semel check` as people and build servers use it (CLI-1, CLI-2).

import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFile, writeFile } from "node:fs/promises";
import type { AddressInfo } from "node:net";
import { createServer as createTcpServer } from "node:net";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { fileURLToPath } from "node:url";
import { afterEach, expect, test } from "vitest";
import { CASES } from "../../src/check/catalogue.ts";
import { cleanUp, folder, semel, upstream } from "../processes.ts";
import { DEFECTS } from "./defects.ts";
import { referenceApi } from "./reference-api.ts";

afterEach(cleanUp);

const MAIN = fileURLToPath(new URL("../../dist/main.js", import.meta.url));
const ALICE = ["-H", "Authorization: Bearer alice-in-private"];

async function shop(name?: keyof typeof DEFECTS) {
  const api = referenceApi(name === undefined ? {} : DEFECTS[name]!.rules);
  const { url } = await upstream((request, response) => {
    request.headers.authorization = request.headers.authorization?.replace("-in-private", "");
    api(request, response);
  });
  return { url: `${url}/charges`, flags: [...ALICE, "--count", `${url}/count`] };
}

test("an API that keeps the rules ends with 0, and its report is plain where it is piped", async () => {
  const { url, flags } = await shop();
  const { code, stdout, stderr } = await semel("check", url, ...flags, "--tier", "draft");
  expect(stderr).toBe("");
  expect(code).toBe(0);
  expect(stdout).toMatch(/^ {2}pass {2}replays-result {2}/m);
  expect(stdout).toMatch(/\d+ passed, 0 failed, \d+ skipped, \d+ reported; \d+ requests\n$/);
  expect(stdout).not.toContain("\x1b");
  expect(stdout).not.toContain("careful");
});

test("on a terminal it is coloured, and progress is shown while it runs", async () => {
  const { url } = await shop();
  // `script` gives the command a terminal of its own.
  const command = `${process.execPath} ${MAIN} check ${url} -H 'Authorization: Bearer alice' --only same-bytes`;
  const { NO_COLOR: _, ...env } = process.env;
  const child = spawn("script", ["-qec", command, "/dev/null"], {
    env: { ...env, TERM: "xterm-256color" },
    stdio: ["ignore", "pipe", "inherit"],
  });
  const shown = await text(child.stdout);
  expect(shown).toContain("\r\x1b[2K1/1  same-bytes");
  expect(shown).toContain("\x1b[32mpass\x1b[39m  same-bytes");
});

test("a failure says what was sent, what came back, what was expected, and where that is specified", async () => {
  const { url, flags } = await shop("answers 500 to another payload");
  const { code, stdout } = await semel("check", url, ...flags, "--only", "refuses-other-payload");
  expect(code).toBe(1);
  expect(stdout).toMatch(
    /FAIL {2}refuses-other-payload.*\n {2}sent {6}POST \/charges {2}Idempotency-Key: "[0-9a-f-]{36}" {2}\{"amount":100\}\n {2}got {7}201 .*\n {2}sent .*\{"amount":101\}\n {2}got {7}500 .*\n {2}expected {2}422 for the other payload\n {2}source {4}draft-07 §2\.7/,
  );
  // Credentials are in no report.
  expect(stdout).not.toContain("alice-in-private");
});

test("of a storm's answers the first few are shown, and JSON has them all", async () => {
  let charges = 0;
  const { url } = await upstream((_request, response) => response.end(String(++charges)));
  const only = ["--only", "hundred-duplicates", "--duplicates", "20"];
  const { stdout } = await semel("check", url, ...only);
  expect(stdout.match(/^ {2}got /gm)?.length).toBe(6);
  expect(stdout).toContain(
    "15 more; --json has them all\n  expected  one effect; there were 21 effects",
  );
  const { cases } = JSON.parse((await semel("check", url, ...only, "--json")).stdout);
  expect(cases[0].exchanges.length).toBe(21);
});

test("--json prints the same as data, and --junit writes it for build servers", async () => {
  const { url, flags } = await shop("answers 500 to another payload");
  const file = join(await folder(), "results.xml");
  const only = ["--only", "replays-result,refuses-other-payload,bare-key,credential-isolation"];
  const { code, stdout } = await semel("check", url, ...flags, ...only, "--json", "--junit", file);
  expect(code).toBe(1);
  const report = JSON.parse(stdout);
  expect(report).toMatchObject({
    url,
    method: "POST",
    totals: { pass: 1, fail: 1, skip: 1, info: 1 },
  });
  expect(
    report.cases.find((result: { id: string }) => result.id === "refuses-other-payload"),
  ).toMatchObject({
    verdict: "fail",
    tier: "draft",
    source: "draft-07 §2.7; RFC 9110 §15.5.21",
    expected: "422 for the other payload",
    exchanges: [{ times: 1 }, { times: 1 }],
  });
  const xml = await readFile(file, "utf8");
  expect(xml).toContain('<testsuite name="draft" tests="3" failures="1" skipped="0" errors="0"');
  expect(xml).toContain('<testsuite name="careful" tests="1" failures="0" skipped="1" errors="0"');
  expect(xml).toContain('<failure message="422 for the other payload">');
  expect(xml).toContain("Idempotency-Key: &quot;");
});

test("--list and --dry-run show every case with its requests, and send nothing", async () => {
  const all = await semel("check", "--list");
  expect(all.code).toBe(0);
  for (const { id } of CASES) expect(all.stdout).toContain(` ${id} `);
  expect(all.stdout).toMatch(/61 cases, at most \d+ requests, .* nothing was sent\n$/);
  const { code, stdout } = await semel("check", "http://127.0.0.1:9/", "--dry-run", "--json");
  expect(code).toBe(0);
  const cases = JSON.parse(stdout);
  expect(cases.length).toBe(CASES.length);
  expect(cases.find(({ id }: { id: string }) => id === "half-sent-body").skipped).toMatch(
    /--count/,
  );
});

test("a counter may be a list, or deep in an answer", async () => {
  const api = referenceApi();
  const made: string[] = [];
  const { url } = await upstream((request, response) => {
    if (request.url === "/list") return response.end(JSON.stringify({ "all/of": { them: made } }));
    response.once("finish", () => {
      if (response.statusCode === 201 && !response.hasHeader("idempotent-replayed"))
        made.push("one");
    });
    return api(request, response);
  });
  const flags = ["-H", "Authorization: Bearer alice", "--count", `${url}/list`, "--json"];
  const only = ["--only", "half-sent-body"];
  const right = ["--count-pointer", "/all~1of/them"];
  const { stdout } = await semel("check", `${url}/charges`, ...flags, ...only, ...right);
  expect(JSON.parse(stdout).totals).toEqual({ pass: 1, fail: 0, skip: 0, info: 0 });
  const wrong = await semel("check", `${url}/charges`, ...flags, ...only);
  expect(wrong.code).toBe(3);
  expect(wrong.stderr).toMatch(/^error: --count .* has no number, nor a list; --count-pointer/);
});

test("another header, another method and a body from a file are sent as told", async () => {
  const file = join(await folder(), "body.json");
  await writeFile(file, '{"item":"book"}');
  const seen = new Set<string>();
  const { url } = await upstream(async (request, response) => {
    const body: Buffer[] = [];
    for await (const chunk of request) body.push(chunk);
    seen.add(`${request.method} ${request.headers["x-request-id"]?.length} ${Buffer.concat(body)}`);
    response.end(String(Math.random()));
  });
  const flags = ["-X", "patch", "--header", "X-Request-Id", "--body-file", file];
  await semel("check", url, ...flags, "--only", "replays-result");
  expect([...seen].sort()).toEqual(['PATCH 38 {"item":"book"}', 'PATCH 38 {"item":"book2"}']);
});

test("the same seed makes the same keys, which a server that remembers them gives away", async () => {
  const { url, flags } = await shop();
  const only = ["--only", "replays-result", "--seed", "monday"];
  expect((await semel("check", url, ...flags, ...only)).code).toBe(0);
  const again = await semel("check", url, ...flags, ...only);
  expect(again.code).toBe(3);
  expect(again.stderr).toMatch(
    /replays an answer to what should be a new key; give another --seed/,
  );
});

test("a target that is not there, does not answer, or refuses the operation ends with 3", async () => {
  const gone = await upstream((_request, response) => response.end());
  await gone.stop();
  const absent = await semel("check", gone.url);
  expect(absent.code).toBe(3);
  expect(absent.stderr).toMatch(/^error: http:.* cannot be reached: .*ECONNREFUSED.*\n$/);
  expect(absent.stdout).toBe("");

  const silent = createTcpServer((socket) => socket.on("error", () => {}));
  silent.listen(0, "127.0.0.1");
  await once(silent, "listening");
  const { port } = silent.address() as AddressInfo;
  const mute = await semel("check", `http://127.0.0.1:${port}/`, "--timeout", "100ms");
  silent.close();
  expect(mute.code).toBe(3);
  expect(mute.stderr).toContain("no answer within 100 ms");

  const refusing = await upstream((_request, response) => {
    response.writeHead(404).end("\x1b[2Jnothing here");
  });
  const refused = await semel("check", refusing.url);
  expect(refused.code).toBe(3);
  expect(refused.stderr).toMatch(/must be accepted before it can be checked; it answers 404/);
  // What the target says cannot move the terminal's cursor.
  expect(refused.stderr).not.toContain("\x1b");
});

test("a target that answers without end is no answer, and one that dies meanwhile fails", async () => {
  const endless = await upstream((_request, response) => {
    const block = Buffer.alloc(2 ** 20);
    const pour = () => {
      while (!response.destroyed && response.write(block));
    };
    response.on("drain", pour);
    pour();
  });
  const poured = await semel("check", endless.url);
  expect(poured.code).toBe(3);
  expect(poured.stderr).toContain("the answer has no end");

  const api = referenceApi();
  let requests = 0;
  const dying = await upstream((request, response) => {
    if (++requests > 5) request.socket.destroy();
    else api(request, response);
  });
  const flags = ["-H", "Authorization: Bearer alice", "--only", "same-bytes,replays-result"];
  const { code, stdout, stderr } = await semel("check", dying.url, ...flags);
  expect({ code, stderr }).toEqual({ code: 1, stderr: "" });
  expect(stdout).toMatch(/got {7}no answer: .*\n/);
});

test("--help has every flag, examples and exit codes", async () => {
  const { code, stdout } = await semel("check", "--help");
  expect(code).toBe(0);
  const words = stdout.replace(/\s+/g, " ");
  for (const part of [
    "-X, --method <method>",
    "-H <line>",
    '(default: "Idempotency-Key")',
    '(default: {"amount":100})',
    "--count-pointer <pointer>",
    "--other-auth <line>",
    '(choices: "draft", "careful", "all", default: "all")',
    "(default: 10s)",
    "--junit <file>",
    "$ semel check --list",
    "3 the target cannot be checked",
  ]) {
    expect(words).toContain(part);
  }
});

const URL_GIVEN = "http://127.0.0.1:9/";
const WRONG: [args: string[], says: RegExp][] = [
  [[], /an address is required/],
  [["127.0.0.1:9"], /with its scheme, such as http:/],
  [["ftp://127.0.0.1/"], /with its scheme, such as http:/],
  [["http://me:secret-pw@127.0.0.1/"], /give credentials with -H/],
  [[URL_GIVEN, "--tiers", "draft"], /unknown option '--tiers'\n\(Did you mean --tier\?\)/],
  [[URL_GIVEN, "--tier", "strict"], /--tier.*draft, careful, all/],
  [[URL_GIVEN, "--only", "replay"], /--only: there is no case "replay"; --list shows them/],
  [[URL_GIVEN, "--only", "same-bytes", "--tier", "draft"], /--tier draft has none of the cases/],
  [[URL_GIVEN, "-X", "GET"], /-X, --method.*such as POST or PATCH/],
  [
    [URL_GIVEN, "--header", "Authorization: Bearer me"],
    /--header takes the name.* are given with -H/,
  ],
  [[URL_GIVEN, "--other-auth", "Bearer secret-pw"], /--other-auth takes a header as/],
  [[URL_GIVEN, "-H", "nonsense"], /-H takes a header as 'Name: value'/],
  [[URL_GIVEN, "-H", "Host: elsewhere"], /-H must not hold Host/],
  [[URL_GIVEN, "-H", "Idempotency-Key: mine"], /-H must not hold Idempotency-Key/],
  [
    [URL_GIVEN, "--body", "a", "--body-file", "b"],
    /--body <text>' cannot be used with option '--body-file/,
  ],
  [[URL_GIVEN, "--body-file", "/nowhere/body"], /--body-file \/nowhere\/body cannot be read/],
  [[URL_GIVEN, "--count-pointer", "total"], /--count-pointer.*such as \/total/],
  [[URL_GIVEN, "--duplicates", "1000"], /--duplicates.*from 2 to 100/],
  [[URL_GIVEN, "--timeout", "0"], /--timeout.*longer than 0/],
  [[URL_GIVEN, "extra"], /too many arguments/],
];

for (const [args, says] of WRONG) {
  test(`wrong usage is told, and ends with 2: semel check ${args.join(" ")}`, async () => {
    const { code, stdout, stderr } = await semel("check", ...args);
    expect(stderr).toMatch(says);
    expect(stderr).not.toMatch(/\n\s+at |secret-pw/);
    expect({ code, stdout }).toEqual({ code: 2, stdout: "" });
  });
}
