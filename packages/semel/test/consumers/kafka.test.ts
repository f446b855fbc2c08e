import { afterAll } from "vitest";
import { closeKafka, kafkaHarness } from "./kafka-harness.ts";
import { consumerSuite } from "./suite.ts";

afterAll(closeKafka);
consumerSuite(kafkaHarness);
