import { afterAll } from "vitest";
import { cleanUp } from "../processes.ts";
import { describeCommands } from "./commands-suite.ts";
import { redisPrefix } from "./fixtures.ts";

afterAll(cleanUp);

describeCommands({ name: "Redis", hasTables: false, expires: true }, await redisPrefix());
