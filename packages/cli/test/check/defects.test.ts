// A checker that cannot fail is worth nothing: each defect is found, by the cases that name it (CLI-1).

import { afterAll, describe, expect, test, vi } from "vitest";
import { CASES } from "../../src/check/catalogue.ts";
import { cleanUp, upstream } from "../processes.ts";
import { checked, ids, targetAt } from "./checking.ts";
import { DEFECTS } from "./defects.ts";
import { referenceApi } from "./reference-api.ts";

// They mostly wait for slow answers.
vi.setConfig({ maxConcurrency: 12 });
afterAll(cleanUp);

describe.concurrent("an API that", () => {
  for (const [name, { rules, server: breaking, fails }] of Object.entries(DEFECTS)) {
    test(`${name} fails ${fails.join(", ")}, and nothing else`, async () => {
      const { url, server } = await upstream(referenceApi(rules));
      breaking?.(server);
      const report = await checked(targetAt(url));
      expect(ids(report, "fail").sort()).toEqual([...fails].sort());
    });
  }
});

test("every case that can fail is failed by a defect", () => {
  const named = new Set(Object.values(DEFECTS).flatMap(({ fails }) => fails));
  const unproven = CASES.map(({ id }) => id).filter((id) => !named.has(id) && !REPORTS.has(id));
  expect(unproven).toEqual([]);
});

/** Cases that tell how it is, where both ways are right. */
const REPORTS = new Set([
  "key-parameters",
  "bare-key",
  "json-member-order",
  "json-whitespace",
  "media-type",
  "after-client-error",
  "after-server-error",
]);
