// `@Idempotent({ transactional: true })` with Nest 12, on both of its platforms.

import { afterAll } from "vitest";
import { closeServers, pgBackend } from "../engine/transaction-backends.ts";
import { nestTransactionalCases, nestTransactionalHarness } from "./nestjs-transactional-cases.ts";
import { transactionalSuite } from "./transactional-suite.ts";

for (const platform of ["Express", "Fastify"] as const) {
  nestTransactionalCases("Nest 12", platform);
  transactionalSuite(nestTransactionalHarness(`Nest 12 on ${platform}`, platform), pgBackend);
}

afterAll(closeServers);
