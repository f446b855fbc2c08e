import { openIoredis, openNodeRedis, redisStreamsHarness } from "./redis-streams-harness.ts";
import { consumerSuite } from "./suite.ts";

consumerSuite(redisStreamsHarness("ioredis", openIoredis));
consumerSuite(redisStreamsHarness("redis", openNodeRedis));
