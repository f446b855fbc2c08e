import { defineConfig } from "vitest/config";

// Where a machine-readable report is wanted, beside the one for people.
const results = process.env["SEMEL_RESULTS"];

export default defineConfig({
  test: {
    // Most of them wait for servers and processes.
    maxWorkers: 2,
    include: ["packages/*/test/**/*.test.ts", "examples/**/*.test.ts", "docs/**/*.test.ts"],
    // Against what hangs: machines are several times slower at some hours than at others.
    testTimeout: 120_000,
    hookTimeout: 120_000,
    expect: { poll: { timeout: 30_000 } },
    reporters: results ? ["default", ["json", { outputFile: results }]] : ["default"],
  },
});
