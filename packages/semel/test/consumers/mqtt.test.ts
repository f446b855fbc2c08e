import { afterAll } from "vitest";
import { closeMosquitto, mqttHarness } from "./mqtt-harness.ts";
import { consumerSuite } from "./suite.ts";

afterAll(closeMosquitto);
consumerSuite(mqttHarness(1));
consumerSuite(mqttHarness(2));
