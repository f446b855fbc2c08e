// The API that the defects are made from keeps every rule, and the checker keeps its word about requests.

import type { RequestListener } from "node:http";
import { afterEach, expect, test } from "vitest";
import { CASES } from "../../src/check/catalogue.ts";
import { SETUP_REQUESTS_MAX } from "../../src/check/run.ts";
import { cleanUp, upstream } from "../processes.ts";
import { checked, ids, targetAt } from "./checking.ts";
import { CORRECT, referenceApi } from "./reference-api.ts";

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

test("an API that runs every duplicate, and says the same each time, passes no case about effects", async () => {
  const { url } = await upstream(runsDuplicates());
  const blind = await checked(targetAt(url, { count: undefined }));
  const effects = ["replays-result", "refuses-other-payload", "headers-do-not-count"];
  expect(ids(blind, "skip")).toEqual(
    expect.arrayContaining([...effects, "large-body", "key-whitespace", "expect-continue"]),
  );
  const report = await checked(targetAt(url));
  expect(ids(report, "fail")).toEqual(
    expect.arrayContaining(["replays-result", "headers-do-not-count", "expect-continue"]),
  );
});

test("an API that fails from some moment on has replayed nothing", async () => {
  let requests = 0;
  const { url } = await upstream((request, response) => {
    request.resume().on("end", () => {
      requests++;
      response.writeHead(requests <= 3 ? 201 : 503).end(`{"id":${Math.min(requests, 4)}}`);
    });
  });
  const report = await checked(targetAt(url, { count: undefined }));
  const replays = ["replays-result", "same-bytes", "headers-do-not-count", "key-whitespace"];
  expect(ids(report, "fail")).toEqual(expect.arrayContaining(replays));
});

test("a counter that stops to rise, as a list that comes in pages, ends the run", async () => {
  const api = referenceApi();
  const made: string[] = [];
  const { url } = await upstream((request, response) => {
    if (request.url === "/count") return void response.end(JSON.stringify(made.slice(-20)));
    response.once("finish", () => {
      const isNew = response.statusCode === 201 && !response.hasHeader("idempotent-replayed");
      if (isNew) made.push("one");
    });
    return api(request, response);
  });
  await expect(checked(targetAt(url))).rejects.toThrow("no longer rises when a new operation runs");
});

test("times in the refusal of another payload are nothing of the first answer", async () => {
  const times = (second: number) => {
    const date = new Date(second * 1_000);
    return [`${date.toISOString().slice(0, 19)}Z`, date.toISOString(), date.toUTCString()];
  };
  const { url } = await upstream(
    referenceApi({
      encode(body) {
        const value = JSON.parse(body.toString()) as { charge: number };
        // After the first operations, it all happens in one second.
        const second = value.charge <= SETUP_REQUESTS_MAX ? value.charge : 0;
        const text = JSON.stringify({ ...value, times: times(second) });
        return { headers: {}, body: Buffer.from(text) };
      },
      mismatch: (...asked) => ({ ...CORRECT.mismatch(...asked), members: { times: times(0) } }),
    }),
  );
  const cases = CASES.filter(({ id }) => /^(?:distinct-keys|mismatch-does-not-leak)$/.test(id));
  const report = await checked(targetAt(url), cases);
  expect(ids(report, "fail")).toEqual([]);
});

test("a header that every answer has does not make a new operation a replay", async () => {
  const api = referenceApi();
  const { url } = await upstream((request, response) => {
    response.setHeader("Idempotency-Supported", "true");
    api(request, response);
  });
  const report = await checked(targetAt(url));
  expect(ids(report, "fail")).toEqual([]);
});

/** An API that tells other payloads apart, and runs the same ones again. */
function runsDuplicates(): RequestListener {
  const bodies = new Map<string, string>();
  let charges = 0;
  return (request, response) => {
    let body = "";
    request.on("data", (chunk) => {
      body += chunk;
    });
    request.on("end", () => {
      if (request.method === "GET") return response.end(String(charges));
      const key = String(request.headers["idempotency-key"]).trim();
      if ((bodies.get(key) ?? body) !== body) return response.writeHead(422).end();
      bodies.set(key, body);
      charges++;
      return response.end("done");
    });
  };
}
