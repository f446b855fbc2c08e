// `semel/fetch` against the conformance suite of frameworks.

import { describe, test } from "vitest";
import { frameworkCases, reasonToSkip } from "../../src/testing/framework-suite/index.ts";
import { fetchHarness } from "./fetch-harness.ts";

describe("semel/fetch", () => {
  for (const frameworkCase of frameworkCases) {
    if (reasonToSkip(frameworkCase, fetchHarness) !== undefined) continue;
    test(frameworkCase.name, () => frameworkCase.run(fetchHarness));
  }
});
