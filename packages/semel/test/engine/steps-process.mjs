// A process of its own that runs operations of three steps, each up to the point at which it is to be
// killed. The steps call a downstream that remembers their idempotency keys.
//
//   fork("steps-process.mjs", ['{ "backend": …, "url": …, "table": …, "downstream": … }'])
//
// It is sent `{ operations: [{ key, stop? }] }`, and sends `{ stopped, ended }` when every operation is
// at its point or has ended. Sent `{ go: true }`, it sends off the writes that are to be under way when
// it dies, and says `{ gone: true }`.

import { randomUUID } from "node:crypto";
import { Idempotency } from "../../dist/engine/idempotency.js";
import { openStore } from "./store-of-process.mjs";

const { downstream, ...address } = JSON.parse(process.argv[2]);

/** Operations by the owners of their attempts: where each is, and where it is to stop. */
const attempts = new Map();
/** Writes that are sent off when the process is about to die. */
const lastWrites = [];

const never = () => new Promise(() => {});

class Run {
  step = "";
  stopped = new Promise((resolve) => {
    this.stop = resolve;
  });

  constructor(key, point) {
    this.key = key;
    this.point = point;
  }

  async at(point) {
    if (point !== this.point) return;
    this.stop();
    await never();
  }

  /** A write that stops after it was sent off, with an answer that nobody sees. */
  async atSent(point, write) {
    if (point !== this.point) return write();
    lastWrites.push(write);
    this.stop();
    return never();
  }
}

const store = await openStore(address);
let starting;
const stopping = new Proxy(store, {
  get(target, name) {
    switch (name) {
      case "begin":
        return (claim) => {
          attempts.set(claim.owner, starting.get(claim.key));
          return target.begin(claim);
        };
      case "append":
        return (entry) => {
          const run = attempts.get(entry.owner);
          return run.atSent(`saving ${run.step}`, () => target.append(entry));
        };
      case "settle":
        return async (ending) => {
          const run = attempts.get(ending.owner);
          await run.at("completing");
          const answer = await run.atSent("sent", () => target.settle(ending));
          await run.at("completed");
          return answer;
        };
      default: {
        const member = target[name];
        return typeof member === "function" ? member.bind(target) : member;
      }
    }
  },
});

const idempotency = new Idempotency({
  store: stopping,
  lease: "1s",
  cache: false,
  sweep: false,
  storeTimeout: "20s",
});

function perform(run) {
  const request = { key: run.key, onCrash: "rerun", wait: "60s" };
  return idempotency.run(request, async (operation) => {
    const seen = [];
    for (const name of ["reserve", "charge", "ship"]) {
      run.step = name;
      const value = await operation.step(name, async ({ idempotencyKey }) => {
        await run.at(`before ${name}`);
        const nonce = randomUUID();
        const body = JSON.stringify({ key: run.key, name, idempotencyKey, nonce, seen });
        // Its answer begins once it has done what it was asked for.
        const response = await fetch(downstream, { method: "POST", body });
        await run.at(`during ${name}`);
        const answer = await response.text();
        await run.at(`after ${name}`);
        return { nonce, answer };
      });
      seen.push(value);
      await run.at(`saved ${name}`);
    }
    return seen;
  });
}

process.on("message", async ({ operations, go }) => {
  if (go) {
    for (const write of lastWrites) write();
    process.send({ gone: true });
    return;
  }
  const runs = operations.map(({ key, stop }) => new Run(key, stop));
  starting = new Map(runs.map((run) => [run.key, run]));
  const stopped = [];
  const ended = {};
  await Promise.all(
    runs.map((run) =>
      Promise.race([
        run.stopped.then(() => stopped.push(run.key)),
        perform(run).then(({ value, replayed }) => {
          ended[run.key] = { value, replayed };
        }),
      ]),
    ),
  );
  process.send({ stopped, ended });
});
process.on("disconnect", () => process.exit());
