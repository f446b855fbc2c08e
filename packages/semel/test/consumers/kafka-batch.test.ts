import { afterAll } from "vitest";
import { closeKafka, kafkaBatchHarness } from "./kafka-harness.ts";
import { consumerSuite } from "./suite.ts";

afterAll(closeKafka);
consumerSuite(kafkaBatchHarness);
