// Inputs and values of durable operations are typed, by any Standard Schema validator or by the handler.

import type { StandardSchemaV1 as Spec } from "@standard-schema/spec";
import { describe, expectTypeOf, test } from "vitest";
import { z } from "zod";
import type { StandardSchemaV1 } from "../../src/engine/durable/standard-schema.ts";
import {
  type DurableOperation,
  Idempotency,
  type Operation,
  type Outcome,
} from "../../src/index.ts";
import { memoryStore } from "../../src/stores/memory.ts";

const idempotency = new Idempotency({ store: memoryStore(), sweep: false });

describe("types of durable operations (EN-7)", () => {
  test("a schema types what is asked for and what the handler is given", () => {
    const ride = idempotency.operation("ride", {
      input: z.object({ to: z.string(), seats: z.coerce.number().default(1) }),
      handler: (input, operation) => {
        expectTypeOf(input).toEqualTypeOf<{ to: string; seats: number }>();
        expectTypeOf(operation).toEqualTypeOf<Operation>();
        return { seats: input.seats };
      },
      fingerprint: ({ to }) => to,
    });
    expectTypeOf(ride.run).returns.resolves.toEqualTypeOf<Outcome<{ seats: number }>>();
    expectTypeOf(ride.start).parameter(0).toExtend<{ key: string; scope?: string }>();
    expectTypeOf(ride.start).toBeCallableWith({ key: "k", input: { to: "moon" } });
    expectTypeOf(ride.start).toBeCallableWith({ key: "k", input: { to: "moon", seats: "2" } });
    // @ts-expect-error the schema asks for a destination
    expectTypeOf(ride.start).toBeCallableWith({ key: "k", input: {} });
    // @ts-expect-error and so for an input
    expectTypeOf(ride.start).toBeCallableWith({ key: "k" });
  });

  test("without a schema, the handler does", () => {
    const typed = idempotency.operation("typed", {
      handler: async (input: { to: string }) => input.to.length,
    });
    expectTypeOf(typed).toEqualTypeOf<DurableOperation<{ to: string }, number>>();
    // @ts-expect-error the handler asks for a destination
    expectTypeOf(typed.start).toBeCallableWith({ key: "k" });
    const bare = idempotency.operation("bare", { handler: () => 1 });
    expectTypeOf(bare.start).toBeCallableWith({ key: "k" });
    idempotency.worker({ operations: [typed, bare], signal: AbortSignal.abort() });
  });

  test("what is used of Standard Schema is what it says, so that none of its types is needed", () => {
    expectTypeOf<Spec<string, number>>().toExtend<StandardSchemaV1<string, number>>();
    expectTypeOf<z.ZodString>().toExtend<StandardSchemaV1<string, string>>();
    expectTypeOf<StandardSchemaV1<string, number>>().toExtend<Spec<string, number>>();
  });
});
