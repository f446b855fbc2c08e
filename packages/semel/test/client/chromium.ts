// A real browser for tests: SEMEL_TEST_CHROMIUM, or Debian's Chromium. Without one, tests skip with
// the reason, unless SEMEL_REQUIRE_SERVICES says that they must not.

import { existsSync } from "node:fs";
import { type Browser, chromium } from "playwright-core";

const PATH = process.env["SEMEL_TEST_CHROMIUM"] ?? "/usr/bin/chromium";
const ARGUMENTS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

/** Why there is no browser; `undefined` when there is one. */
export function chromiumMissing(): string | undefined {
  if (existsSync(PATH)) return undefined;
  const reason = `no browser: install chromium, or set SEMEL_TEST_CHROMIUM (tried ${PATH})`;
  if (process.env["SEMEL_REQUIRE_SERVICES"]) throw new Error(reason);
  return reason;
}

export function launchChromium(): Promise<Browser> {
  return chromium.launch({ executablePath: PATH, args: ARGUMENTS });
}
