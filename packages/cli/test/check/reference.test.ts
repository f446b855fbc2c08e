// The API that the defects are made from keeps every rule, and the checker keeps its word about requests.

import { afterEach, expect, test } from "vitest";
import { CASES } from "../../src/check/catalogue.ts";
import { SETUP_REQUESTS_MAX } from "../../src/check/run.ts";
import { cleanUp, upstream } from "../processes.ts";
import { checked, ids, targetAt } from "./checking.ts";
import { referenceApi } from "./reference-api.ts";

afterEach(cleanUp);

test("an API that keeps every rule fails and skips nothing", async () => {
  const { url } = await upstream(referenceApi());
  const report = await checked(targetAt(url));
  expect(report.cases.filter(({ verdict }) => verdict === "fail")).toEqual([]);
  expect(ids(report, "skip")).toEqual([]);
  expect(report.cases.length).toBe(CASES.length);
});

test("no case sends more requests than it says, and the report says how many there were", async () => {
  const api = referenceApi();
  let received = 0;
  const { url } = await upstream((request, response) => {
    if (request.url !== "/count") received++;
    api(request, response);
  });
  for (const theCase of CASES) {
    received = 0;
    const report = await checked(targetAt(url, { seed: theCase.id }), [theCase]);
    expect(report.requests, theCase.id).toBe(received);
    expect(received, theCase.id).toBeLessThanOrEqual(theCase.requestsMax + SETUP_REQUESTS_MAX);
  }
});

test("without a counter, effects are told by their answers", async () => {
  const { url } = await upstream(referenceApi());
  const report = await checked(targetAt(url, { count: undefined }));
  expect(ids(report, "fail")).toEqual([]);
  expect(ids(report, "skip")).toEqual(["vanishing-client", "half-sent-body"]);
});

test("where all answers are alike and nothing counts, what cannot be told is skipped, not passed", async () => {
  const { url } = await upstream((_request, response) => response.end("done"));
  const report = await checked(targetAt(url, { count: undefined }));
  expect(ids(report, "pass")).not.toContain("hundred-duplicates");
  expect(ids(report, "skip")).toEqual(
    expect.arrayContaining(["distinct-keys", "concurrent-duplicates", "pipelined-duplicates"]),
  );
  expect(ids(report, "fail")).toEqual(
    expect.arrayContaining(["refuses-other-payload", "replay-marked", "empty-string"]),
  );
});

test("a counter tells two effects apart though their answers are alike", async () => {
  let charges = 0;
  const { url } = await upstream((request, response) => {
    response.end(String(request.url === "/count" ? charges : "done"));
    if (request.method === "POST") charges++;
  });
  const report = await checked(targetAt(url));
  const failed = report.cases.find(({ id }) => id === "replays-result");
  expect(failed).toMatchObject({
    verdict: "fail",
    expected: "one effect; there were 2 effects, by --count",
  });
});
