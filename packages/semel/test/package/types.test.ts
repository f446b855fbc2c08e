// What applications compile against, beyond what the other tests use of it: the types as they are built.

import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import ts from "typescript";
import { afterAll, beforeAll, expect, test } from "vitest";

const FOLDER = join(import.meta.dirname, "../../../..", ".cache/types");

beforeAll(() => mkdirSync(FOLDER, { recursive: true }));
afterAll(() => rmSync(FOLDER, { recursive: true, force: true }));

/** What the compiler says of an application's module under the strictest flags. */
function complaintsAbout(code: string, options: ts.CompilerOptions): string[] {
  const file = join(FOLDER, "application.mts");
  writeFileSync(file, code);
  const program = ts.createProgram([file], {
    noEmit: true,
    strict: true,
    exactOptionalPropertyTypes: true,
    target: ts.ScriptTarget.ES2023,
    module: ts.ModuleKind.NodeNext,
    moduleResolution: ts.ModuleResolutionKind.NodeNext,
    ...options,
  });
  return ts
    .getPreEmitDiagnostics(program)
    .map(
      ({ file, messageText }) =>
        `${file?.fileName}: ${ts.flattenDiagnosticMessageText(messageText, "\n")}`,
    );
}

test("what runs elsewhere than on Node, and the engine, take no types of Node", {
  timeout: 60_000,
}, () => {
  const names = ["", "/client", "/conditional", "/fetch", "/hono", "/http", "/mcp", "/memory"];
  const stores = ["/sqlite", "/postgres", "/mysql", "/dynamodb", "/sql"];
  const imports = [...names, ...stores].map(
    (name, at) => `import * as m${at} from "semel${name}";`,
  );
  const all = imports.map((_, at) => `m${at}`).join(", ");
  const code = `${imports.join("\n")}\nexport const all: unknown[] = [${all}];\n`;
  const options = { types: [], lib: ["lib.es2023.d.ts", "lib.dom.d.ts"], skipLibCheck: false };
  expect(complaintsAbout(code, options)).toEqual([]);
});

test("an option may be passed on that nobody may have set", { timeout: 60_000 }, () => {
  const code = `
import { Idempotency, type IdempotencyOptions, type RunRequest } from "semel";
import { type ClientOptions, createClient } from "semel/client";
import { type FastifyOptions } from "semel/fastify";
import { type HttpOptions, idempotent } from "semel/fetch";
import { type ToolOptions } from "semel/mcp";
import { type MemoryStoreOptions, memoryStore } from "semel/memory";
import { type JetStreamOptions } from "semel/nats";
import { type PostgresStoreOptions } from "semel/postgres";
import { type RedisStoreOptions } from "semel/redis";
import { type SqliteStoreOptions } from "semel/sqlite";
import { type WebhookOptions } from "semel/webhooks";

/** Each option that need not be given, as undefined. */
type Unset<Options> = {
  [Name in keyof Options as {} extends Pick<Options, Name> ? Name : never]: undefined;
};
/** Whether all that need not be given may be undefined. A scope must not be: it would be somebody's who is not known. */
type May<Options> = Unset<Options> extends Partial<Options> ? true : keyof Unset<Options>;

export const may: [
  May<IdempotencyOptions>, May<Omit<RunRequest, "scope">>, May<HttpOptions<Request>>, May<ClientOptions>,
  May<FastifyOptions>, May<MemoryStoreOptions>, May<JetStreamOptions<object>>,
  May<PostgresStoreOptions>, May<RedisStoreOptions>, May<SqliteStoreOptions>,
  May<ToolOptions<object, never, object>>, May<WebhookOptions>,
] = [true, true, true, true, true, true, true, true, true, true, true, true];

declare const config: { retention?: string | undefined };
const retention = config.retention as "24h" | undefined;
const idempotency = new Idempotency({ store: memoryStore({ entriesMax: undefined }), retention });
void idempotency.run({ key: "k", retention, signal: undefined }, () => 1);
idempotent(idempotency, { scope: "shared", retention }, () => new Response());
createClient({ deadline: undefined, retry: { attemptsMax: undefined } });
`;
  expect(complaintsAbout(code, { types: ["node"], skipLibCheck: true })).toEqual([]);
});
