// A process of its own that does rocket rides, each in a world of its own that stops at one of the calls
// it makes: of the store, of the database, of the provider. Then the process is killed.
//
//   fork("rocket-rides-process.mjs", ['{ "backend": …, "url": …, "table": …, "provider": … }'])
//
// It is sent `{ worlds: [{ name, input, stop?: { call, when } }] }`, and sends `{ stopped, done }` when
// each world is at its call or has come to its end. Sent `{ go: true }`, it sends off the calls that are
// to be under way when it dies, and says `{ gone: true }`.

import { setTimeout as delay } from "node:timers/promises";
import { Idempotency } from "semel";
import { openDatabase } from "../../../../examples/rocket-rides/database.mjs";
import { rocketRides } from "../../../../examples/rocket-rides/rides.mjs";

const { backend, url, table, provider } = JSON.parse(process.argv[2]);

/** Calls that are sent off when the process is about to die. */
const lastCalls = [];
const never = () => new Promise(() => {});

/** Everything that one ride has to do with, up to the call at which it stops. */
class World {
  calls = 0;
  isStopped = false;
  stopped = new Promise((resolve) => {
    this.onStopped = resolve;
  });

  constructor({ name, input, stop }) {
    this.name = name;
    this.input = input;
    this.stop = stop;
  }

  async call(make) {
    if (this.isStopped) return never();
    if (++this.calls !== this.stop?.call) return make();
    if (this.stop.when === "after") await make();
    if (this.stop.when === "sent") lastCalls.push(make);
    this.isStopped = true;
    this.onStopped();
    return never();
  }

  /** An object all of whose calls are this world's. */
  watched(target) {
    return new Proxy(target, {
      get: (_target, name) => {
        const member = target[name];
        if (typeof member === "object" && member !== null) return this.watched(member);
        if (typeof member !== "function") return member;
        const call = member.bind(target);
        switch (name) {
          // The engine asks these for what it knows already.
          case "isRetryable":
          case "subscribe":
            return call;
          case "run":
            return (work) =>
              this.call(() =>
                call((...given) => work(...given).then((value) => this.call(async () => value))),
              );
          default:
            return (...given) => this.call(async () => call(...given));
        }
      },
    });
  }
}

/** Opens the database, for each world or for all. */
async function openPlace() {
  if (backend === "sqlite") {
    return { open: ({ name }) => openDatabase(`sqlite:${url}/${name}.db`) };
  }
  const shared = await openShared();
  return { open: async () => shared };
}

async function openShared() {
  switch (backend) {
    case "pg": {
      const { default: pg } = await import("pg");
      const { postgresStore } = await import("semel/postgres");
      const pool = new pg.Pool({ connectionString: url, max: 12 });
      const store = postgresStore(pool, { table });
      const query = (on, sql, parameters) => on.query(sql, parameters);
      return { store, rides: sqlRides(query, pool, (n) => `$${n}`) };
    }
    case "mysql2": {
      const { createPool } = await import("mysql2/promise");
      const { mysqlStore } = await import("semel/mysql");
      const pool = createPool({ uri: url, connectionLimit: 12 });
      const query = (on, sql, parameters) => on.query(sql, parameters);
      return { store: mysqlStore(pool, { table }), rides: sqlRides(query, pool, () => "?") };
    }
    case "redis": {
      const { Redis } = await import("ioredis");
      const { redisStore } = await import("semel/redis");
      const client = new Redis(url);
      const key = (id) => `${table}ride:${id}`;
      const rides = {
        book: (_none, id) => client.hset(key(id), "state", "booked"),
        confirm: (_none, id, charge) =>
          client.hset(key(id), "state", "confirmed", "charge", charge),
        change: (id, state) => client.hset(key(id), "state", state),
      };
      const store = redisStore(client, { prefix: table, evictionPolicy: "warn" });
      return { store, rides, isWithoutTransactions: true };
    }
  }
}

function sqlRides(query, pool, placeholder) {
  const [one, two] = [placeholder(1), placeholder(2)];
  return {
    book: (transaction, id) =>
      query(transaction, `INSERT INTO ${table}_rides (id, state) VALUES (${one}, 'booked')`, [id]),
    confirm: (transaction, id, charge) =>
      query(
        transaction,
        `UPDATE ${table}_rides SET state = 'confirmed', charge = ${one} WHERE id = ${two}`,
        [charge, id],
      ),
    change: (id, state) =>
      query(pool, `UPDATE ${table}_rides SET state = ${one} WHERE id = ${two}`, [state, id]),
  };
}

/** Where there are no transactions, what would be one is a step. */
function withoutTransactions(idempotency) {
  return {
    operation: (name, options) =>
      idempotency.operation(name, {
        ...options,
        handler: (input, { key, step, effect }) => {
          const transaction = (name, work, options) =>
            step(name, (context) => work(undefined, { ...context, effect }), options);
          return options.handler(input, { key, step: Object.assign(step, { transaction }) });
        },
      }),
  };
}

const place = await openPlace();
const service = { lease: "2s", pollInterval: "500ms" };

async function perform(world) {
  const { store, rides, isWithoutTransactions } = await place.open(world);
  const idempotency = new Idempotency({
    store: world.watched(store),
    ...{ lease: "2s", cache: false, sweep: false, storeTimeout: "20s" },
  });
  const parts = {
    rides: world.watched(rides),
    request: (...given) => world.call(() => fetch(...given)),
    provider,
    suffix: `-${world.name}`,
  };
  const facade = isWithoutTransactions ? withoutTransactions(idempotency) : idempotency;
  const { ride, deliveries } = rocketRides({ ...parts, idempotency: facade });
  const request = { key: world.name, input: world.input };
  await ride.start(request);
  idempotency.worker({ operations: [ride], ...service });
  idempotency.relay(deliveries, service);

  // Whoever looks on makes no calls that count.
  const watching = new Idempotency({ store, cache: false, sweep: false });
  const facadeOfWatching = isWithoutTransactions ? withoutTransactions(watching) : watching;
  const { ride: watched } = rocketRides({ ...parts, idempotency: facadeOfWatching });
  const name = `receipt-${world.name}`;
  for (;;) {
    if (world.isStopped) return never();
    const { state, error } = await watched.status({ key: world.name });
    if (state === "held") throw new Error(`${world.name} is held: ${error}`);
    const { items } = await watching.effects.list({ name, state: "waiting" });
    if ((state === "completed" || state === "failed") && items.length === 0) {
      const value = state === "completed" ? (await watched.run(request)).value : undefined;
      const { calls } = world;
      await idempotency.close();
      return { state, value, calls };
    }
    await delay(300);
  }
}

process.on("message", async ({ worlds: asked, go }) => {
  if (go) {
    for (const call of lastCalls) void call().catch(() => {});
    process.send({ gone: true });
    return;
  }
  const stopped = [];
  const done = {};
  await Promise.all(
    asked.map((one) => {
      const world = new World(one);
      return Promise.race([
        world.stopped.then(() => stopped.push(world.name)),
        perform(world).then((end) => {
          done[world.name] = end;
        }),
      ]);
    }),
  );
  process.send({ stopped, done });
});
process.on("disconnect", () => process.exit());
