// What is shipped, as a user gets it: packed, installed into an empty folder, imported, type-checked.

import { execFileSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";

const ROOT = join(import.meta.dirname, "../../../..");
const LIBRARY = join(ROOT, "packages/semel");
const BIN = join(ROOT, "node_modules/.bin");
const manifest = JSON.parse(readFileSync(join(LIBRARY, "package.json"), "utf8"));
const SUBPATHS = Object.keys(manifest.exports)
  .filter((path) => path !== "./package.json")
  .map((path) => `semel${path.slice(1)}`);

let folder: string;
let tarball: string;

function run(command: string, args: string[], cwd: string): string {
  return execFileSync(command, args, { cwd, encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });
}

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "semel-tarball-"));
  run("npm", ["pack", "--silent", "--pack-destination", folder], LIBRARY);
  tarball = join(folder, readdirSync(folder).find((name) => name.endsWith(".tgz"))!);
  writeFileSync(join(folder, "package.json"), '{ "private": true, "type": "module" }');
  run("npm", ["install", "--silent", "--no-audit", "--no-fund", tarball], folder);
});

afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Imports subpaths as an application in that folder would. */
function imported(subpaths: readonly string[]): string {
  const script = subpaths.map(
    (path) => `if (Object.keys(await import("${path}")).length === 0) throw new Error("${path}");
if (Object.keys(require("${path}")).length === 0) throw new Error("${path}");`,
  );
  writeFileSync(
    join(folder, "all.mjs"),
    `import { createRequire } from "node:module";\nconst require = createRequire(import.meta.url);\n${script.join("\n")}\nconsole.log("imported");`,
  );
  return run(process.execPath, ["--no-warnings", "all.mjs"], folder).trim();
}

/** For applications that have what these are for. */
const OF_PEERS = ["semel/nestjs", "semel/opentelemetry"];

test("every subpath can be imported, also by require()", () => {
  const installed = readdirSync(join(folder, "node_modules"));
  expect(installed.filter((name) => /nestjs|opentelemetry/.test(name))).toEqual([]);
  expect(imported(SUBPATHS.filter((path) => !OF_PEERS.includes(path)))).toBe("imported");
});

test("semel/nestjs and semel/opentelemetry need the packages of applications that have these, and no more", () => {
  const peers = Object.entries(manifest.peerDependencies).map(
    ([name, range]) => `${name}@${range}`,
  );
  const install = ["install", "--silent", "--no-audit", "--no-fund", "reflect-metadata", ...peers];
  run("npm", install, folder);
  expect(imported(OF_PEERS)).toBe("imported");
});

test("an ESM consumer type-checks under the strictest flags", () => {
  writeFileSync(
    join(folder, "consumer.ts"),
    `import { createServer } from "node:http";
import { Idempotency, isSemelError, type Outcome, type Store } from "semel";
import { memoryStore } from "semel/memory";
import { idempotent } from "semel/node";
${SUBPATHS.map((path, index) => `import * as module${index} from "${path}";`).join("\n")}
const store: Store = memoryStore({ entriesMax: 10 });
const idempotency = new Idempotency({ store, retention: "24h", lease: 30_000 });
const outcome: Outcome<number> = await idempotency.run({ key: "k" }, async ({ signal }) => (signal.aborted ? 0 : 1));
createServer(idempotent(idempotency, { scope: "shared" }, (_request, response) => response.end()));
export const all = [outcome.value.toFixed(), isSemelError(0), ${SUBPATHS.map((_, index) => `module${index}`).join(", ")}];
// @ts-expect-error a duration needs a unit
new Idempotency({ store, retention: "24 hours" });
// @ts-expect-error the scope must be given
idempotent(idempotency, {}, () => {});
`,
  );
  const flags = "--noEmit --strict --exactOptionalPropertyTypes --target es2023 --module nodenext";
  const types = ["--types", "node", "--typeRoots", join(ROOT, "node_modules/@types")];
  run(join(BIN, "tsc"), [...flags.split(" "), ...types, "consumer.ts"], folder);
});

test("the tarball holds what is built and nothing else", () => {
  const names = run("tar", ["tzf", tarball], folder).trim().split("\n");
  expect(names).toContain("package/LICENSE");
  expect(names).toContain("package/README.md");
  expect(
    names.filter((name) => !/^package\/(dist\/|package\.json|README\.md|LICENSE)/.test(name)),
  ).toEqual([]);
  expect(names.filter((name) => name.includes("tsbuildinfo"))).toEqual([]);
});

test("publint and attw find nothing wrong", () => {
  run(join(BIN, "publint"), ["--strict", tarball], folder);
  run(join(BIN, "attw"), ["--profile", "esm-only", tarball], folder);
});
