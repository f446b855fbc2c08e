import { afterAll } from "vitest";
import { cleanUp } from "../processes.ts";
import { describeCommands } from "./commands-suite.ts";
import { sqliteFile } from "./fixtures.ts";

afterAll(cleanUp);

describeCommands({ name: "SQLite", hasTables: true, expires: false }, await sqliteFile());
