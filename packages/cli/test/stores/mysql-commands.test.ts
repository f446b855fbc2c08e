import { afterAll } from "vitest";
import { cleanUp } from "../processes.ts";
import { describeCommands } from "./commands-suite.ts";
import { mysqlDatabase } from "./fixtures.ts";

afterAll(cleanUp);

describeCommands({ name: "MySQL", hasTables: true, expires: false }, await mysqlDatabase());
