import { afterAll } from "vitest";
import { closeSqs, lambdaHarness, pollerHarness } from "./sqs-harness.ts";
import { consumerSuite } from "./suite.ts";

afterAll(closeSqs);
consumerSuite(pollerHarness);
consumerSuite(lambdaHarness);
