// `@Idempotent({ transactional: true })` with Nest 11, on both of its platforms. Nest 11 takes the place
// of Nest 12 in all that this file loads: the adapter, the harness and the cases.

import { Reflector } from "@nestjs/core";
import { afterAll, expect, test, vi } from "vitest";
import * as nest11 from "../../../../compat/nest11/index.ts";
import { closeServers } from "../engine/transaction-backends.ts";
import { nestTransactionalCases } from "./nestjs-transactional-cases.ts";

const load = vi.hoisted(() => () => import("../../../../compat/nest11/index.ts"));
vi.mock("@nestjs/common", async () => (await load()).common);
vi.mock("@nestjs/core", async () => (await load()).core);
vi.mock("@nestjs/platform-express", async () => (await load()).platformExpress);
vi.mock("@nestjs/platform-fastify", async () => (await load()).platformFastify);

test("what is tested here is Nest 11", () => expect(Reflector).toBe(nest11.core.Reflector));

for (const platform of ["Express", "Fastify"] as const) nestTransactionalCases("Nest 11", platform);

afterAll(closeServers);
