// The application in docs/nestjs.md compiles with the decorators that Nest's users write, and prints
// what it promises.

import { execFileSync } from "node:child_process";
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import ts from "typescript";
import { afterAll, beforeAll, expect, test } from "vitest";

const ROOT = join(import.meta.dirname, "../../../..");
const FOLDER = join(ROOT, ".cache/nestjs-document");
const page = readFileSync(join(ROOT, "docs/nestjs.md"), "utf8");
const [code] = [...page.matchAll(/^```typescript\n(.*?)^```/gms)].map(([, block]) => block!);

const compilerOptions: ts.CompilerOptions = {
  strict: true,
  target: ts.ScriptTarget.ES2023,
  module: ts.ModuleKind.NodeNext,
  moduleResolution: ts.ModuleResolutionKind.NodeNext,
  experimentalDecorators: true,
  emitDecoratorMetadata: true,
  types: ["node"],
  skipLibCheck: true,
  outDir: FOLDER,
};

beforeAll(() => {
  rmSync(FOLDER, { recursive: true, force: true });
  mkdirSync(FOLDER, { recursive: true });
  writeFileSync(join(FOLDER, "app.mts"), code!);
});

afterAll(() => rmSync(FOLDER, { recursive: true, force: true }));

test("the application compiles with TypeScript's own decorators, and runs", () => {
  const program = ts.createProgram([join(FOLDER, "app.mts")], compilerOptions);
  const found = ts
    .getPreEmitDiagnostics(program)
    .map(({ messageText }) => ts.flattenDiagnosticMessageText(messageText, "\n"));
  expect(found).toEqual([]);
  program.emit();
  const printed = execFileSync(process.execPath, [join(FOLDER, "app.mjs")], {
    encoding: "utf8",
    cwd: ROOT,
  });
  const promised = [...code!.matchAll(/console\.log\(.*\); \/\/ (.*)$/gm)].map(([, said]) => said);
  expect(promised).toHaveLength(2);
  expect(printed.trim().split("\n")).toEqual(promised);
});
