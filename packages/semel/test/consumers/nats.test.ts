import { natsBatchHarness, natsHarness } from "./nats-harness.ts";
import { consumerSuite } from "./suite.ts";

consumerSuite(natsHarness);
consumerSuite(natsBatchHarness);
