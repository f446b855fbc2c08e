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
    "(default: 127.0.0.1:8080)",
    '(default: "sqlite:./semel.db")',
    "(default: authorization)",
    "(default: POST,PATCH)",
    "--required",
    "(default: 24h)",
    "(default: 30s)",
    '(choices: "hold", "rerun", default: "hold")',
    '(choices: "release", "hold", "store", default: "release")',
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
  [["gateway", ...UPSTREAM, "--listen", "8080x"], /--listen.*Write HOST:PORT/],
  [["gateway", ...UPSTREAM, "--listen", "127.0.0.1:65536"], /--listen.*Write HOST:PORT/],
  [
    ["gateway", ...UPSTREAM, "--store", "postgres://me:pw@h/d"],
    /no such store.*sqlite:PATH.*memory:/,
  ],
  [["gateway", ...UPSTREAM, "--scope", "user"], /--scope.*authorization, header:NAME or shared/],
  [["gateway", ...UPSTREAM, "--scope", "header:a b"], /--scope.*header:NAME/],
  [["gateway", ...UPSTREAM, "--methods", "POST,GET"], /--methods holds "GET"/],
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
