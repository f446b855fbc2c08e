// A few seconds of what `scripts/soak.mjs` does for ten minutes: many connections, a service that fails in
// every way, and nothing that happens twice or stays open.

import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { expect, test } from "vitest";

const SOAK = fileURLToPath(new URL("../../scripts/soak.mjs", import.meta.url));

test.skipIf(process.platform !== "linux")(
  "200 connections and a failing service leave no handle open, and no operation runs twice",
  async () => {
    const env = { ...process.env, SOAK_SECONDS: "6", SOAK_CONNECTIONS: "200" };
    const { stdout, stderr } = await promisify(execFile)(process.execPath, [SOAK], { env });
    expect(stderr).toBe("");
    expect(JSON.parse(stdout)).toMatchObject({ connections: 200, twice: 0 });
  },
  300_000,
);
