// A payments service in a process of its own, to be killed, stopped and continued. Its effect is a line
// in a file; what it does next is told to it through files, so that nothing depends on timing.
//
//   node service.mjs '{ "database": …, "effects": …, "gate": …, "options": … }'
//
// It prints its port. While the file `gate` exists, a handler that has made its effect waits.

import { appendFileSync, existsSync } from "node:fs";
import { createServer } from "node:http";
import { setTimeout as delay } from "node:timers/promises";
import { Idempotency } from "semel";
import { httpResult, idempotent, operationOf } from "semel/node";
import { sqliteStore } from "semel/sqlite";

const { database, effects, gate, options } = JSON.parse(process.argv[2]);
const store = sqliteStore(await open(database));
await store.migrate();
const idempotency = new Idempotency({ store, ...options });

const handler = idempotent(idempotency, { scope: "shared" }, async (request, response) => {
  let body = "";
  for await (const chunk of request) body += chunk;
  const operation = operationOf(request);
  appendFileSync(effects, `${operation.key} ${process.pid}\n`);
  while (existsSync(gate)) await delay(5);
  response.writeHead(201, { "content-type": "application/json" });
  response.end(JSON.stringify({ paid: JSON.parse(body).amount, by: process.pid }));
});

const server = createServer((request, response) => {
  if (request.url !== "/resolve") return handler(request, response);
  const key = request.headers["x-key"];
  const body = request.headers["x-result"];
  const verdict = body
    ? { outcome: "applied", result: httpResult({ status: 201, body: Buffer.from(body) }) }
    : { outcome: "not-applied" };
  return idempotency.resolve({ key }, verdict).then(
    (answer) => response.end(answer.kind),
    (error) => response.writeHead(500).end(String(error)),
  );
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));

async function open(path) {
  const builtin = process.getBuiltinModule?.("node:sqlite");
  if (builtin) return new builtin.DatabaseSync(path);
  const { default: Database } = await import("libsql");
  return new Database(path);
}
