// The layers of docs/architecture.md, held by reading every import of the library's source.

import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { expect, test } from "vitest";

const SRC = join(import.meta.dirname, "../../src");

/** What each layer may import of the library, by folder; `.` is the files at the top. */
const ALLOWED: Record<string, readonly string[]> = {
  ".": ["."],
  engine: [".", "engine"],
  stores: [".", "stores"],
  http: [".", "engine", "http"],
  frameworks: [".", "engine", "http"],
  sql: [".", "sql", "stores"],
  client: [".", "client"],
  conditional: [".", "conditional"],
  webhooks: [".", "engine", "http", "webhooks"],
  mcp: [".", "engine", "mcp"],
  producers: [".", "producers"],
  consumers: [".", "engine", "consumers", "producers"],
  telemetry: [".", "engine", "telemetry"],
  testing: [".", "engine", "http", "stores", "testing"],
};

const files = readdirSync(SRC, { recursive: true, encoding: "utf8" }).filter((file) =>
  file.endsWith(".ts"),
);
const imports = files.flatMap((file) => {
  const source = readFileSync(join(SRC, file), "utf8");
  const found = source.matchAll(/^(?:import|export)\s[^;]*?from "([^"]+)";$/gms);
  return [...found].map(([statement, specifier]) => ({
    file,
    specifier: specifier!,
    isTypeOnly: /^(?:import|export) type /.test(statement),
  }));
});

function layerOf(file: string): string {
  return file.includes("/") ? file.slice(0, file.indexOf("/")) : ".";
}

function targetOf(file: string, specifier: string): string {
  return relative(SRC, join(SRC, dirname(file), specifier));
}

test("imports go down the layers only", () => {
  const forbidden = imports
    .filter(({ specifier }) => specifier.startsWith("."))
    .map(({ file, specifier }) => ({ file, target: targetOf(file, specifier) }))
    // The root re-exports what users import from "semel".
    .filter(({ file }) => file !== "index.ts")
    .filter(({ file, target }) => !ALLOWED[layerOf(file)]?.includes(layerOf(target)));
  expect(forbidden).toEqual([]);
});

test("frameworks know the framework-neutral core and not each other", () => {
  const crossed = imports.filter(
    ({ file, specifier }) =>
      specifier.startsWith(".") &&
      layerOf(file) === "frameworks" &&
      layerOf(targetOf(file, specifier)) === "frameworks",
  );
  expect(crossed).toEqual([]);
});

test("no module imports itself in a circle", () => {
  const graph = new Map<string, string[]>();
  for (const { file, specifier, isTypeOnly } of imports) {
    if (!specifier.startsWith(".") || isTypeOnly) continue;
    graph.set(file, [...(graph.get(file) ?? []), targetOf(file, specifier)]);
  }
  const circles: string[] = [];
  const visit = (file: string, path: readonly string[]): void => {
    if (path.includes(file)) circles.push([...path.slice(path.indexOf(file)), file].join(" → "));
    else for (const target of graph.get(file) ?? []) visit(target, [...path, file]);
  };
  visit("index.ts", []);
  visit("client/index.ts", []);
  visit("webhooks/index.ts", []);
  visit("mcp/index.ts", []);
  for (const file of files.filter((file) => layerOf(file) === "frameworks")) visit(file, []);
  expect(circles).toEqual([]);
});

/** What may be imported where, of the packages that only some users have. */
const PEERS_OF: Record<string, readonly string[]> = {
  // Its decorators are worth nothing without Nest, whose users have it.
  "frameworks/nestjs.ts": ["@nestjs/common", "@nestjs/core", "rxjs"],
  "telemetry/opentelemetry.ts": ["@opentelemetry/api"],
  "telemetry/instruments.ts": ["@opentelemetry/api"],
  "telemetry/gauges.ts": ["@opentelemetry/api"],
};

test("the library needs only the packages that it declares, and no database client", () => {
  const manifest = JSON.parse(readFileSync(join(SRC, "../package.json"), "utf8"));
  const foreign = imports.filter(({ specifier }) => !/^(?:\.|node:)/.test(specifier));
  const isPeer = (one: (typeof foreign)[number]) => PEERS_OF[one.file]?.includes(one.specifier);
  const names = (found: typeof foreign) =>
    [...new Set(found.map(({ specifier }) => specifier))].sort();
  expect(names(foreign.filter((one) => !isPeer(one)))).toEqual(
    Object.keys(manifest.dependencies).sort(),
  );
  expect(names(foreign.filter(isPeer))).toEqual(Object.keys(manifest.peerDependencies).sort());
});
