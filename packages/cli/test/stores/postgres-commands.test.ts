import { afterAll } from "vitest";
import { cleanUp } from "../processes.ts";
import { describeCommands } from "./commands-suite.ts";
import { postgresDatabase } from "./fixtures.ts";

afterAll(cleanUp);

describeCommands({ name: "Postgres", hasTables: true, expires: false }, await postgresDatabase());
