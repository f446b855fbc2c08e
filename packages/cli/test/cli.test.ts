// The command line itself: what it says of itself, how it refuses, and with which exit code (CLI-2).

import { readFileSync } from "node:fs";
import { readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import libsql from "libsql";
import { afterEach, expect, test } from "vitest";
import { cleanUp, folder, gateway, semel, upstream } from "./processes.ts";

afterEach(cleanUp);

const UPSTREAM = ["--upstream", "http://127.0.0.1:9"];
const { version } = JSON.parse(readFileSync(new URL("../package.json", import.meta.url), "utf8"));

test("--version and --help are no failures", async () => {
  expect(await semel("--version")).toEqual({ code: 0, stdout: `${version}\n`, stderr: "" });
  const help = await semel("--help");
  expect(help.code).toBe(0);
  expect(help.stdout).toMatch(/gateway \[options\].*Exit codes:/s);
});

test("the gateway's help has every flag with its default, examples and exit codes", async () => {
  const { code, stdout } = await semel("gateway", "--help");
  expect(code).toBe(0);
  const text = stdout.replace(/\s+/g, " ");
  for (const part of [
    "--upstream <url>",
    "(default: 127.0.0.1:8080, env: SEMEL_LISTEN)",
    '(default: "sqlite:./semel.db", env: SEMEL_STORE)',
    "(default: authorization, env: SEMEL_SCOPE)",
    "(default: POST,PATCH, env: SEMEL_METHODS)",
    "--required",
    "(default: 24h, env: SEMEL_RETENTION)",
    "(default: 30s, env: SEMEL_LEASE)",
    '(choices: "hold", "rerun", default: "hold", env: SEMEL_ON_CRASH)',
    '(choices: "release", "hold", "store", default: "release", env: SEMEL_ON_ERROR)',
    "--max-body <bytes>",
    "--max-result <bytes>",
    "--upstream-timeout <duration>",
    "--drain <duration>",
    "--json",
    "$ semel gateway --upstream http://127.0.0.1:3000",
    "Exit codes:",
  ]) {
    expect(text).toContain(part);
  }
});

const WRONG: [args: string[], says: RegExp][] = [
  [[], /Usage: semel/],
  [["gatway"], /unknown command 'gatway'\n\(Did you mean gateway\?\)/],
  [["gateway"], /--upstream is required/],
  [
    ["gateway", "--upstram", "http://a"],
    /unknown option '--upstram'\n\(Did you mean --upstream\?\)/,
  ],
  [["gateway", ...UPSTREAM, "extra"], /too many arguments/],
  [["gateway", "--upstream", "localhost:3000"], /--upstream.*such as http:\/\/127\.0\.0\.1:3000/],
  [["gateway", "--upstream", "http://a/path"], /--upstream.*such as http:\/\/a;/],
  [["gateway", "--upstream", "http://127.0.0.1:8080"], /is the gateway itself/],
  [
    ["gateway", "--upstream", "http://me:secret@127.0.0.1:9"],
    /^error: (?!.*secret).*holds a user or a password/,
  ],
  [["gateway", ...UPSTREAM, "--listen", "8080x"], /--listen.*Write HOST:PORT/],
  [["gateway", ...UPSTREAM, "--listen", "127.0.0.1:65536"], /--listen.*Write HOST:PORT/],
  [
    ["gateway", ...UPSTREAM, "--store", "mongodb://me:pw@h/d"],
    /no such store.*sqlite:PATH.*postgres:.*mysql:.*redis:.*memory:/,
  ],
  [
    ["gateway", ...UPSTREAM, "--store", "postgres://me:pw@h:x/d"],
    /no address; write postgres:\/\//,
  ],
  [["gateway", ...UPSTREAM, "--store", "me:pw@h/d"], /--store.*no such store/],
  [["gateway", ...UPSTREAM, "--store", "./semel.db"], /--store needs a scheme.*sqlite:PATH/],
  [
    ["gateway", ...UPSTREAM, "--store", "memory:", "--table", "t"],
    /--table is for stores with tables/,
  ],
  [["stats", "--prefix", "p:"], /--prefix is for Redis/],
  [["stats", "--store", "redis://h", "--table", "t"], /its keys begin with --prefix/],
  [["stats", "--store", "memory:"], /memory: is in the process that made it/],
  [["stats", "--stor", "memory:"], /unknown option '--stor'\n\(Did you mean --store\?\)/],
  [["records", "lst"], /unknown command 'lst'\n\(Did you mean list\?\)/],
  [["records", "list", "--stat", "held"], /\(Did you mean --state\?\)/],
  [["records", "list", "--state", "stuck"], /--state.*running, completed, held, open, void/],
  [["records", "list", "--limit", "0"], /--limit.*1 to 1000/],
  [["records", "list", "--older-than", "1 h"], /--older-than.*such as 250ms/],
  [["records", "get"], /missing required argument 'key'/],
  [["records", "resolve", "k"], /--applied.*or --not-applied/],
  [["records", "resolve", "k", "--applied"], /--applied needs what callers shall get/],
  [
    ["records", "resolve", "k", "--not-applied", "--status", "201"],
    /--status.*--not-applied has none/,
  ],
  [["records", "resolve", "k", "--applied", "--status", "99"], /--status.*200 to 999/],
  [["records", "resolve", "k", "--applied", "--value", "{a}"], /--value.*Write JSON/],
  [["records", "resolve", "k", "--applied", "--value", "1", "--body", "b"], /--value is for/],
  [["records", "resolve", "k", "--applied", "--header", "x"], /--header takes a header/],
  [["records", "delete", "k"], /say --yes/],
  [["purge", "--batch", "0"], /--batch.*1 to 100000/],
  [["migrate", "--print", "--store", "redis:"], /--print is for stores with tables/],
  [
    ["gateway", ...UPSTREAM, "--scope", "user"],
    /--scope.*authorization, header:NAME, jwt:CLAIM, auth-request:URL or shared/,
  ],
  [
    ["gateway", ...UPSTREAM, "--scope", "jwt:sub"],
    /jwt:sub takes .*--jwks.*the address of the keys/,
  ],
  [["gateway", ...UPSTREAM, "--scope", "auth-request:auth"], /--scope.*https:\/\/auth\.example/],
  [["gateway", ...UPSTREAM, "--jwks", "jwks.json"], /--jwks.*whole address/],
  [["gateway", ...UPSTREAM, "--jwt-issuer", "a,,b"], /--jwt-issuer.*commas between/],
  [["gateway", ...UPSTREAM, "--jwt-issuer", "a"], /no use without --jwks/],
  [["gateway", ...UPSTREAM, "--auth-principal", "a b"], /--auth-principal.*name of a header/],
  [["gateway", ...UPSTREAM, "--mode", "dry"], /--mode.*enforce, audit/],
  [["gateway", "--config", "nowhere.yaml"], /--config nowhere\.yaml: there is no such file/],
  [["gateway", ...UPSTREAM, "--scope", "header:a b"], /--scope.*header:NAME/],
  ...[
    ["--upstream", "http//me:secret@h"],
    ["--upstream", "http:\\\\me:secret@h"],
    ["--jwks", "https://me:secret@h/jwks"],
    ["--jwks", "htps:me:secret@h/#a"],
    ["--scope", "auth-request:https://me:secret@h/"],
    ["--jwks", "https://me:sec/secret@h"],
    ["--scope", "auth-requst:https://me:secret@h/"],
  ].map((flag): [string[], RegExp] => [
    ["gateway", ...UPSTREAM, ...flag],
    /^error: (?!.*secret).*holds a user or a password/,
  ]),
  [["gateway", ...UPSTREAM, "--methods", "POST,GET"], /--methods holds "GET"/],
  [["gateway", ...UPSTREAM, "--methods", "POST;PATCH"], /There is no method "POST;PATCH"/],
  [["gateway", ...UPSTREAM, "--retention", "1 day"], /--retention.*such as 250ms/],
  [["gateway", ...UPSTREAM, "--lease", "1ms"], /--lease must be between 10 ms/],
  [["gateway", ...UPSTREAM, "--wait", "-1s"], /--wait.*such as 250ms/],
  [["gateway", ...UPSTREAM, "--on-crash", "retry"], /--on-crash.*hold, rerun/],
  [["gateway", ...UPSTREAM, "--on-error", "ignore"], /--on-error.*release, hold, store/],
  [["gateway", ...UPSTREAM, "--max-body", "1g"], /--max-body.*64k/],
  [["gateway", ...UPSTREAM, "--max-result", "2000m"], /--max-result.*1024m/],
  [["gateway", ...UPSTREAM, "--upstream-timeout", "0"], /--upstream-timeout.*longer than 0/],
  [["gateway", ...UPSTREAM, "--drain", "25d"], /--drain.*at most 24d/],
  [["gateway", ...UPSTREAM, "--log", "xml"], /--log.*json, pretty, none/],
];

for (const [args, says] of WRONG) {
  test(`wrong usage is told in a line, and ends with 2: semel ${args.join(" ")}`, async () => {
    const { code, stdout, stderr } = await semel(...args);
    expect(code).toBe(2);
    expect(stdout).toBe("");
    expect(stderr).toMatch(says);
    expect(stderr).not.toMatch(/\n\s+at |:pw@/);
    if (args.length > 0) expect(stderr.trim().split("\n").length).toBeLessThanOrEqual(2);
  });
}

/** Runs a gateway that cannot start. */
async function failing(...flags: string[]): Promise<string> {
  const { code, stdout, stderr } = await semel("gateway", ...UPSTREAM, ...flags);
  expect(code).toBe(1);
  expect(stdout).toBe("");
  expect(stderr).toMatch(/^error: [^\n]+\n$/);
  return stderr;
}

test("an address that is in use is told with the flag to change", async () => {
  const taken = await upstream((_request, response) => response.end());
  const listen = `127.0.0.1:${taken.port}`;
  const said = await failing("--listen", listen, "--store", "memory:");
  expect(said).toContain(`--listen ${listen}: the address is in use`);
});

test("an address of another machine is told as such", async () => {
  const said = await failing("--listen", "192.0.2.1:0", "--store", "memory:");
  expect(said).toContain("this machine has no such address");
});

test("a file that is no database, and a folder that is not there, are told", async () => {
  const path = await folder();
  const note = join(path, "note.txt");
  await writeFile(note, "not a database, but long enough to be taken for one\n".repeat(100));
  expect(await failing("--store", `sqlite:${note}`)).toContain("not a SQLite database");
  const missing = join(path, "missing", "semel.db");
  expect(await failing("--store", `sqlite:${missing}`)).toContain("check that its folder exists");
  expect(await failing("--store", `sqlite:${path}`)).toContain("cannot be opened");
});

test("a database that may not be written is told", async () => {
  const file = join(await folder(), "semel.db");
  const database = new libsql(file);
  database.exec("CREATE TABLE other (a)");
  database.close();
  expect(await failing("--store", `sqlite:file:${file}?mode=ro`)).toContain("read-only");
});

test("a schema of a newer version is told, and left alone", async () => {
  const file = join(await folder(), "semel.db");
  const behind = await upstream((_request, response) => response.end());
  const { end } = await gateway(behind.url, "--store", `sqlite:${file}`);
  expect(await end("SIGTERM")).toBe(0);
  const database = new libsql(file);
  database.exec("UPDATE semel_schema SET version = 99");
  database.close();
  const said = await failing("--store", `sqlite:${file}`);
  expect(said).toMatch(/schema 99, newer than .* upgrade Semel/);
});

test("a wrong bound is told before a file is made", async () => {
  const path = await folder();
  const store = `sqlite:${join(path, "semel.db")}`;
  const { code } = await semel("gateway", ...UPSTREAM, "--store", store, "--lease", "1ms");
  expect(code).toBe(2);
  expect(await readdir(path)).toEqual([]);
});

test("SEMEL_STORE names the store where no flag does", async () => {
  const store = `sqlite:${join(await folder(), "semel.db")}`;
  expect(await semel("migrate", "--store", store)).toMatchObject({ code: 0 });
  process.env["SEMEL_STORE"] = store;
  try {
    expect(await semel("stats")).toMatchObject({ code: 0, stderr: "" });
    expect(await semel("stats", "--store", "memory:")).toMatchObject({ code: 2 });
  } finally {
    delete process.env["SEMEL_STORE"];
  }
});

const COMMANDS = [
  ["records"],
  ...["list", "get", "resolve", "void", "delete"].map((name) => ["records", name]),
  ...["purge", "stats", "migrate", "doctor"].map((name) => [name]),
];

for (const command of COMMANDS) {
  test(`semel ${command.join(" ")} --help has examples and exit codes`, async () => {
    const { code, stdout, stderr } = await semel(...command, "--help");
    expect([code, stderr]).toEqual([0, ""]);
    expect(stdout).toContain("$ semel ");
    expect(stdout).toMatch(/Exit codes: 0 /);
    if (command[0] !== "records" || command[1] !== undefined) {
      expect(stdout).toContain("--store <address>");
      expect(stdout).toContain("--json");
    }
  });
}
