// The recipes are plain JavaScript that anybody can copy and run; their JSDoc is checked against the types
// of the libraries that they are written for.

import { join } from "node:path";
import ts from "typescript";
import { expect, test } from "vitest";
import { RECIPES } from "./recipe-process.ts";

const MODULES = [
  "next/start.mjs",
  "sveltekit/start.mjs",
  "lambda/start.mjs",
  "lambda/handler.mjs",
  "trpc/start.mjs",
  "trpc/router.mjs",
];

test("the recipes type-check under the strictest flags", () => {
  const program = ts.createProgram(
    [
      ...MODULES.map((module) => join(RECIPES, module)),
      join(import.meta.dirname, "../stores/dynalite.d.ts"),
    ],
    {
      noEmit: true,
      allowJs: true,
      checkJs: true,
      strict: true,
      exactOptionalPropertyTypes: true,
      noUncheckedIndexedAccess: true,
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
  const checked = program.getSourceFiles().filter(({ fileName }) => fileName.startsWith(RECIPES));
  expect(checked.length).toBeGreaterThanOrEqual(13);
});
