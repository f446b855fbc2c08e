import { afterAll } from "vitest";
import { bullmqHarness, closeRedis } from "./bullmq-harness.ts";
import { consumerSuite } from "./suite.ts";

afterAll(closeRedis);
consumerSuite(bullmqHarness);
