// `semel/node` against the conformance suite of frameworks.

import { describe, test } from "vitest";
import { frameworkCases, reasonToSkip } from "../../src/testing/framework-suite/index.ts";
import { nodeHarness } from "./node-harness.ts";

describe("semel/node", () => {
  for (const frameworkCase of frameworkCases) {
    if (reasonToSkip(frameworkCase, nodeHarness) !== undefined) continue;
    test(frameworkCase.name, () => frameworkCase.run(nodeHarness));
  }
});
