// `semel/nestjs` with Nest 12, on both of its platforms.

import type { Request } from "express";
import type { FastifyRequest } from "fastify";
import { describe, expectTypeOf, test } from "vitest";
import { Idempotent, SemelModule } from "../../src/frameworks/nestjs.ts";
import { memoryStore } from "../../src/stores/memory.ts";
import { frameworkCases, reasonToSkip } from "../../src/testing/framework-suite/index.ts";
import { nestCases } from "./nestjs-cases.ts";
import { nestHarness } from "./nestjs-harness.ts";

for (const platform of ["Express", "Fastify"] as const) {
  const harness = nestHarness(`Nest 12 on ${platform}`, platform);

  describe(`semel/nestjs with ${harness.name}`, () => {
    for (const frameworkCase of frameworkCases) {
      if (reasonToSkip(frameworkCase, harness) !== undefined) continue;
      test(frameworkCase.name, () => frameworkCase.run(harness));
    }
  });

  describe(`semel/nestjs in applications of ${harness.name}`, () => nestCases(platform));
}

test("options know the platform's own request", () => {
  const onExpress = Idempotent<Request>({ scope: (request) => request.get("x-tenant") });
  const onFastify = Idempotent<FastifyRequest>({ scope: (request) => request.ip });
  expectTypeOf(onExpress).toExtend<MethodDecorator & ClassDecorator>();
  expectTypeOf(onFastify).toExtend<MethodDecorator & ClassDecorator>();
  SemelModule.forRoot({
    idempotency: { store: memoryStore() },
    defaults: { scope: (request: Request & { user: { id: string } }) => request.user.id },
  });
});
