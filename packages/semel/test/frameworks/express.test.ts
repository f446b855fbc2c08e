// `semel/express` against the conformance suite of frameworks, with both majors that it serves.

import express5 from "express";
import express4 from "express4";
import { describe, test } from "vitest";
import { frameworkCases, reasonToSkip } from "../../src/testing/framework-suite/index.ts";
import { expressHarness } from "./express-harness.ts";

const harnesses = [expressHarness("Express 5", express5), expressHarness("Express 4", express4)];

for (const harness of harnesses) {
  describe(`semel/express with ${harness.name}`, () => {
    for (const frameworkCase of frameworkCases) {
      if (reasonToSkip(frameworkCase, harness) !== undefined) continue;
      test(frameworkCase.name, () => frameworkCase.run(harness));
    }
  });
}
