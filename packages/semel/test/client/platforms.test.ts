// The client runs where there is no Node (CL-4): its imports, its types, and, as built, a process that
// has nothing else to do.

import { execFile } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import ts from "typescript";
import { expect, test } from "vitest";
import { rawServer } from "./fixture.ts";

const SRC = join(import.meta.dirname, "../../src");
const run = promisify(execFile);
const BUILT = join(import.meta.dirname, "../../dist/client/index.js");

/** Every module that the client loads, with what each imports; types leave no trace when built. */
function importGraph(): Map<string, string[]> {
  const graph = new Map<string, string[]>();
  const visit = (file: string): void => {
    if (graph.has(file)) return;
    const { outputText } = ts.transpileModule(readFileSync(file, "utf8"), {
      compilerOptions: {
        target: ts.ScriptTarget.ES2023,
        module: ts.ModuleKind.ESNext,
        verbatimModuleSyntax: true,
      },
    });
    const specifiers = ts.preProcessFile(outputText).importedFiles.map(({ fileName }) => fileName);
    graph.set(file, specifiers);
    for (const specifier of specifiers.filter((specifier) => specifier.startsWith("."))) {
      visit(join(file, "..", specifier));
    }
  };
  visit(join(SRC, "client/index.ts"));
  return graph;
}

test("nothing that the client loads imports Node or a package", () => {
  const graph = importGraph();
  expect(graph.size).toBeGreaterThan(10);
  const foreign = [...graph.values()].flat().filter((specifier) => !specifier.startsWith("."));
  expect(foreign).toEqual([]);
});

test("nothing that the client loads uses what only Node has", () => {
  const globals = /\b(process|Buffer|require|setImmediate|__dirname|global)\b/;
  for (const file of importGraph().keys()) {
    const source = ts.createSourceFile(file, readFileSync(file, "utf8"), ts.ScriptTarget.Latest);
    const used: string[] = [];
    const visit = (node: ts.Node): void => {
      if (ts.isIdentifier(node) && globals.test(node.text)) used.push(node.text);
      ts.forEachChild(node, visit);
    };
    visit(source);
    expect(used, file).toEqual([]);
  }
});

test("its declarations compile for browsers, without Node's types", () => {
  const file = join(import.meta.dirname, "dom-user.ts");
  const code = `
    import { createClient, isSemelError, type Client, type KeyLocks, type KeyStorage } from "../../dist/client/index.js";
    const client: Client = createClient({ storage: localStorage, locks: navigator.locks, fetch: window.fetch });
    const asFetch: typeof window.fetch = client;
    const storage: KeyStorage = sessionStorage;
    const locks: KeyLocks = navigator.locks;
    const response: Promise<Response> = client("/payments", { method: "POST", idempotency: { operation: "o" } });
    export { asFetch, isSemelError, locks, response, storage };
  `;
  const options: ts.CompilerOptions = {
    noEmit: true,
    strict: true,
    exactOptionalPropertyTypes: true,
    lib: ["lib.es2023.d.ts", "lib.dom.d.ts", "lib.dom.iterable.d.ts"],
    target: ts.ScriptTarget.ES2023,
    module: ts.ModuleKind.NodeNext,
    moduleResolution: ts.ModuleResolutionKind.NodeNext,
    types: [],
  };
  const host = ts.createCompilerHost(options);
  const { getSourceFile } = host;
  host.getSourceFile = (name, ...rest) =>
    name === file ? ts.createSourceFile(name, code, rest[0]) : getSourceFile(name, ...rest);
  host.fileExists = (name) => name === file || ts.sys.fileExists(name);
  const found = ts
    .getPreEmitDiagnostics(ts.createProgram([file], options, host))
    .map(({ messageText }) => ts.flattenDiagnosticMessageText(messageText, "\n"));
  expect(found).toEqual([]);
});

test("a program that awaits a retry does not end in the middle of it", async () => {
  const url = await rawServer((socket, index) => {
    socket.once("data", () => {
      const status = index === 0 ? "503 Service Unavailable\r\nretry-after: 1" : "200 OK";
      socket.end(`HTTP/1.1 ${status}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n`);
    });
  });
  const program = `
    import { createClient } from ${JSON.stringify(BUILT)};
    const response = await createClient()(${JSON.stringify(url)}, { method: "POST" });
    console.log(response.status);
  `;
  const { stdout, stderr } = await run(process.execPath, ["--input-type=module", "-e", program]);
  expect(stderr).toBe("");
  expect(stdout).toBe("200\n");
});

test("answers that flowed leave nothing on a signal that lives on, once nobody holds them", async () => {
  const url = await rawServer((socket) => {
    socket.once("data", () => {
      socket.end("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 1\r\n\r\n.");
    });
  });
  const program = `
    import { getEventListeners } from "node:events";
    import { setImmediate as turn } from "node:timers/promises";
    import { createClient } from ${JSON.stringify(BUILT)};
    const { signal } = new AbortController();
    const client = createClient();
    const read = async () => (await client(${JSON.stringify(url)}, { signal })).text();
    for (let calls = 0; calls < 50; calls++) await read();
    const isClean = () => getEventListeners(signal, "abort").length <= 1;
    for (let turns = 0; turns < 10_000 && !isClean(); turns++) {
      globalThis.gc();
      await turn();
    }
    console.log(isClean());
  `;
  const flags = ["--expose-gc", "--input-type=module", "-e", program];
  expect((await run(process.execPath, flags)).stdout).toBe("true\n");
});
