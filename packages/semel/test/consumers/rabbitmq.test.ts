import { rabbitmqHarness } from "./rabbitmq-harness.ts";
import { consumerSuite } from "./suite.ts";

consumerSuite(rabbitmqHarness);
