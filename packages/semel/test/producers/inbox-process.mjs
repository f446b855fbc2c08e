// Consumes a broker into a table, each message in one transaction with its mark; to be killed and
// started again at any time.
//
//   node inbox-process.mjs '{ "broker": …, "address": …, "database": … }'

import { Idempotency } from "../../dist/index.js";
import { sqliteStore } from "../../dist/stores/sqlite.js";
import { CONSUMERS, databaseAt } from "./brokers.mjs";

const { broker, address, database } = JSON.parse(process.argv[2]);
// Nothing that waits for a broker would keep the process alive.
setInterval(() => {}, 1_000_000);

const [records, transactions] = [await databaseAt(database), await databaseAt(database)];
// What a killed process has committed stays, without a flush for each message.
const store = sqliteStore(records, { transactions, synchronous: "normal" });
const idempotency = new Idempotency({ store, cache: false, lease: "2s" });
const inbox = idempotency.inbox("ledger", { concurrency: 250, retryDelayMax: 50 });
let count = 0;
const write = (tx, text) => {
  tx.prepare("INSERT INTO effects (body) VALUES (?)").run(JSON.parse(text).body);
  count++;
  if (count % 100 === 0) console.log(`handled ${count}`);
};
await CONSUMERS[broker](inbox, address, write);
console.log("ready");
