// `semel/nestjs` with Nest 11, on both of its platforms. Nest 11 takes the place of Nest 12 in all
// that this file loads: the adapter, the harness and the cases.

import { createRequire } from "node:module";
import { Reflector } from "@nestjs/core";
import { describe, expect, test, vi } from "vitest";
import * as nest11 from "../../../../compat/nest11/index.ts";
import { frameworkCases, reasonToSkip } from "../../src/testing/framework-suite/index.ts";
import { nestCases } from "./nestjs-cases.ts";
import { nestHarness } from "./nestjs-harness.ts";

const load = vi.hoisted(() => () => import("../../../../compat/nest11/index.ts"));
vi.mock("@nestjs/common", async () => (await load()).common);
vi.mock("@nestjs/core", async () => (await load()).core);
vi.mock("@nestjs/platform-express", async () => (await load()).platformExpress);
vi.mock("@nestjs/platform-fastify", async () => (await load()).platformFastify);

test("what is tested here is Nest 11", () => {
  const compat = createRequire(new URL("../../../../compat/nest11/index.ts", import.meta.url));
  expect(compat("@nestjs/core/package.json").version).toMatch(/^11\./);
  expect(Reflector).toBe(nest11.core.Reflector);
});

for (const platform of ["Express", "Fastify"] as const) {
  const harness = nestHarness(`Nest 11 on ${platform}`, platform);

  describe(`semel/nestjs with ${harness.name}`, () => {
    for (const frameworkCase of frameworkCases) {
      if (reasonToSkip(frameworkCase, harness) !== undefined) continue;
      test(frameworkCase.name, () => frameworkCase.run(harness));
    }
  });

  describe(`semel/nestjs in applications of ${harness.name}`, () => nestCases(platform));
}
