// The example says what happens, and it happens.

import { execFileSync } from "node:child_process";
import { join } from "node:path";
import { expect, test } from "vitest";

test("examples/mcp-server pays once for each key, though calls are repeated and the server killed", () => {
  const file = join(import.meta.dirname, "../../../../examples/mcp-server/start.mjs");
  const printed = execFileSync(process.execPath, ["--no-warnings", file], { encoding: "utf8" });
  const lines = printed.split("\n").map((line) => line.trim());
  expect(lines).toContain("MCP error -32001: Request timed out");
  expect(lines).toContain("Paid 10 to Ada.");
  expect(lines).toContain("Paid 20 to Grace.");
  expect(lines).toContain("The bank made 2 payments:");
  expect(lines.filter((line) => line === "20 to Grace")).toHaveLength(1);
});
