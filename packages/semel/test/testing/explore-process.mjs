// A script that is explored with SIGKILL: pays in two steps, on SQLite.
//
//   explore-process.mjs right | wrong

import Database from "libsql";
import { Idempotency } from "../../dist/index.js";
import { sqliteStore } from "../../dist/stores/sqlite.js";
import { killableProcess } from "../../dist/testing/index.js";

const isRight = process.argv[2] === "right";
const { folder, store, effect } = killableProcess();
const builtin = process.getBuiltinModule?.("node:sqlite");
const path = `${folder}/records.db`;
const records = sqliteStore(builtin ? new builtin.DatabaseSync(path) : new Database(path));
await records.migrate();
const idempotency = new Idempotency({ store: store(records), lease: "300ms", sweep: false });
await idempotency.run({ key: "order-42", onCrash: "rerun", wait: "30s" }, async ({ step }) => {
  await step("charge", ({ idempotencyKey }) => effect("charge", isRight ? { idempotencyKey } : {}));
  await step("mail", ({ idempotencyKey }) => effect("mail", { idempotencyKey }));
});
