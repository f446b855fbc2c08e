// What the documents say is true: their code compiles against the built packages, what is marked
// `ts run` runs, every error code is explained, and links lead somewhere.

import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import ts from "typescript";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import * as client from "../../src/client/errors.ts";
import { Idempotency } from "../../src/engine/idempotency.ts";
import { settingsOf } from "../../src/engine/settings.ts";
import * as errors from "../../src/errors.ts";
import { ERROR_CODES } from "../../src/errors.ts";
import { memoryStore } from "../../src/stores/memory.ts";

const ROOT = join(import.meta.dirname, "../../../..");
const FOLDER = join(ROOT, ".cache/documentation");
const PAGES = [
  "README.md",
  "CONTRIBUTING.md",
  "packages/semel/README.md",
  "packages/cli/README.md",
  ...readdirSync(join(ROOT, "docs")).map((name) => `docs/${name}`),
].filter((page) => page.endsWith(".md"));

const blocks = PAGES.flatMap((page) => {
  const text = readFileSync(join(ROOT, page), "utf8");
  return [...text.matchAll(/^```ts( run)?\n(.*?)^```/gms)].map(([, run, code], index) => ({
    name: `${page.replaceAll(/[^a-z]/gi, "-")}-${index}`.toLowerCase(),
    isRun: run !== undefined,
    code: code!,
  }));
});

beforeAll(() => {
  rmSync(FOLDER, { recursive: true, force: true });
  mkdirSync(FOLDER, { recursive: true });
  for (const { name, code } of blocks) writeFileSync(join(FOLDER, `${name}.mts`), code);
});

afterAll(() => rmSync(FOLDER, { recursive: true, force: true }));

test("the page that npm shows says how to install the package, and names all that can be imported", () => {
  const folder = join(ROOT, "packages/semel");
  const page = readFileSync(join(folder, "README.md"), "utf8");
  const manifest = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
  const paths = Object.keys(manifest.exports).filter((path) => path !== "./package.json");
  const named = paths.map((path) => `\`semel${path.slice(1)}\``);
  expect(named.filter((name) => !page.includes(name))).toEqual([]);
  expect(page).toContain("npm install semel");
});

test("code in documents compiles under the strictest flags", () => {
  const program = ts.createProgram(
    blocks.map(({ name }) => join(FOLDER, `${name}.mts`)),
    {
      noEmit: true,
      strict: true,
      exactOptionalPropertyTypes: true,
      target: ts.ScriptTarget.ES2023,
      module: ts.ModuleKind.NodeNext,
      moduleResolution: ts.ModuleResolutionKind.NodeNext,
      types: ["node"],
      skipLibCheck: true,
    },
  );
  const found = ts
    .getPreEmitDiagnostics(program)
    .map(
      ({ file, messageText }) =>
        `${file?.fileName}: ${ts.flattenDiagnosticMessageText(messageText, "\n")}`,
    );
  expect(found).toEqual([]);
  expect(blocks.length).toBeGreaterThan(5);
});

describe("code that is marked to run", () => {
  test.each(blocks.filter(({ isRun }) => isRun))("$name runs to its end", ({ name, code }) => {
    const file = join(FOLDER, `${name}.mjs`);
    const { outputText } = ts.transpileModule(code, {
      compilerOptions: { target: ts.ScriptTarget.ES2023, module: ts.ModuleKind.ESNext },
    });
    writeFileSync(file, outputText);
    const printed = execFileSync(process.execPath, [file], { encoding: "utf8", cwd: ROOT });
    // Comments beside `console.log` say what it prints.
    const promised = [...code.matchAll(/console\.log\(.*\); \/\/ (.*)$/gm)].map(([, said]) => said);
    for (const said of promised) expect(printed).toContain(said);
  });
});

test("every error code is on the errors page, and every code there exists", () => {
  const page = readFileSync(join(ROOT, "docs/errors.md"), "utf8");
  const rows = [...page.matchAll(/^\| `([a-z-]+)` \| `(\w+)` \| ([a-z-]+) \|/gm)];
  const documented = Object.fromEntries(rows.map(([, code, , retry]) => [code, retry]));
  expect(documented).toEqual(ERROR_CODES);
  for (const [, , name] of rows) expect({ ...errors, ...client }, name).toHaveProperty(name!);
});

describe("the page of the engine", () => {
  const page = readFileSync(join(ROOT, "docs/engine.md"), "utf8");
  const store = memoryStore();

  /** The rows of the table under a heading: names of options, and their default. */
  function rowsUnder(heading: string): { names: string[]; byDefault: string }[] {
    const [table] = /^\|.*\n(?:\|.*\n)+/m.exec(page.slice(page.indexOf(heading)))!;
    return [...table.matchAll(/^\| (`.+?) \| (.*?) \|/gm)].map(([, names, byDefault]) => ({
      names: [...names!.matchAll(/`(\w+)`/g)].map(([, name]) => name!),
      byDefault: byDefault!,
    }));
  }

  /** What there is, as an unknown option is told. */
  async function known(ask: (unknown: object) => unknown): Promise<string[]> {
    const error: Error = await (async () => ask({ nothingLikeAnyOfThem: 1 }))().then(
      () => expect.unreachable(),
      (error) => error,
    );
    return error.message.slice(error.message.indexOf("; it has ") + 9).split(", ");
  }

  test("names every option of the constructor and of run(), and no other", async () => {
    const made = (unknown: object) => new Idempotency({ store, ...unknown });
    const run = (unknown: object) => made({}).run({ key: "k", ...unknown }, () => 1);
    for (const [heading, ask] of [
      ["## `new Idempotency", made],
      ["## `run(request", run],
    ] as const) {
      const named = rowsUnder(heading).flatMap(({ names }) => names);
      expect(named.sort()).toEqual((await known(ask)).sort());
    }
  });

  test("gives the defaults of the constructor: to choose them changes nothing", () => {
    const settings = ({ policy, cache, sweep, ...rest }: ReturnType<typeof settingsOf>) => {
      const { maxResultBytes, storeTimeoutMs, completionRetryMs } = rest;
      return { policy, cache, sweep, maxResultBytes, storeTimeoutMs, completionRetryMs };
    };
    const written = rowsUnder("## `new Idempotency").filter(({ byDefault }) =>
      byDefault.startsWith("`"),
    );
    expect(written.length).toBeGreaterThan(10);
    for (const { names, byDefault } of written) {
      const chosen = new Function(`return (${byDefault.slice(1, -1)})`)();
      const options = { store, [names[0]!]: chosen };
      expect(settings(settingsOf(options)), names[0]).toEqual(settings(settingsOf({ store })));
    }
  });
});

test("links between documents lead to files", () => {
  const dead = PAGES.flatMap((page) => {
    const text = readFileSync(join(ROOT, page), "utf8");
    return [...text.matchAll(/\]\((?!https?:|#)([^)#]+)[^)]*\)/g)]
      .map(([, link]) => join(ROOT, dirname(page), link!))
      .filter((target) => !existsSync(target))
      .map((target) => `${page} → ${relative(ROOT, target)}`);
  });
  expect(dead).toEqual([]);
});
