// A database with a table of orders, for tests of what is special to a framework's transactional
// handlers. What all of them owe is in the suite.

import { randomUUID } from "node:crypto";
import { Idempotency, type IdempotencyOptions } from "../../src/engine/idempotency.ts";
import { field, type Reply, type Sending, send } from "../../src/testing/framework-suite/index.ts";
import {
  type Backend,
  type Stage,
  sqliteBackends,
  type TransactionalStore,
} from "../engine/transaction-backends.ts";

export interface Shop {
  readonly idempotency: Idempotency;
  readonly stage: Stage;
  /** Writes an order on the transaction that a handler is given. */
  order(transaction: unknown, sku: string): Promise<void>;
  /** How many orders of this kind are committed. */
  committed(sku: string): Promise<number>;
  close(): Promise<void>;
}

/** A database error that asks for a repetition, where a test throws it. */
export class Serialise extends Error {}

/** Opens a shop, whose database asks for a repetition when it sees {@link Serialise}. */
export async function openShop(
  engine: Partial<IdempotencyOptions> = {},
  backend: Backend = sqliteBackends[0]!,
): Promise<Shop> {
  const stage = await backend.open();
  const client = await stage.connect();
  const idempotency = new Idempotency({ store: repeating(client.store), sweep: false, ...engine });
  return {
    idempotency: idempotency as Idempotency,
    stage,
    order: (transaction, sku) => client.insert(transaction, sku),
    committed: async (sku) => (await stage.skus()).filter((each) => each === sku).length,
    async close() {
      await idempotency.close();
      await client.end();
      await stage.close();
    },
  };
}

function repeating(store: TransactionalStore): TransactionalStore {
  const transactions = new Proxy(store.transactions, {
    get(real, name) {
      if (name === "isRetryable") return (error: unknown) => error instanceof Serialise;
      const member: unknown = Reflect.get(real, name);
      return typeof member === "function" ? member.bind(real) : member;
    },
  });
  return new Proxy(store, {
    get(real, name) {
      if (name === "transactions") return transactions;
      const member: unknown = Reflect.get(real, name);
      return typeof member === "function" ? member.bind(real) : member;
    },
  });
}

export const fresh = (): string => `order-${randomUUID()}`;

/** `Idempotency-Status` of an answer. */
export const statusOf = (reply: Reply): string | undefined => field(reply, "idempotency-status");

/** Posts JSON under a key, or under none. */
export function poster(port: number) {
  return (
    key: string | undefined,
    { path = "/", headers, body = "{}", ...rest }: Partial<Sending> = {},
  ): Promise<Reply> =>
    send(port, {
      ...rest,
      path,
      body,
      headers: {
        "content-type": "application/json",
        ...(key !== undefined && { "idempotency-key": key }),
        ...headers,
      },
    });
}
