// The same request over connections that break, or that are used in unusual ways.

import { type Case, expect, PASS, skip } from "../case.ts";
import { saysTheSame } from "../case-run.ts";
import { isAccepted } from "../exchange.ts";

const TRIES_MAX = 20;
/** Statuses by which a server says that it does not take this way of sending a body. */
const NO_CHUNKS = new Set([411, 501, 505]);

export const CONNECTION_CASES: Case[] = [
  {
    id: "vanishing-client",
    tier: "careful",
    title: "A client that leaves before the answer and retries gets the result of one effect",
    source: "SM-23; draft-07 §1",
    requestsMax: 1 + TRIES_MAX,
    needs: ["count"],
    async run(check) {
      const key = check.key();
      const url = check.target.slow ?? check.target.url;
      const observed = await check.observe(async () => {
        await check.send(key, { url, leaves: "after-body" });
        return [await check.settled(key, TRIES_MAX, { url })];
      });
      expect(isAccepted(observed.answers[0]!), "the retry to get the result");
      check.expectEffects(observed, 1, "one effect");
      return PASS;
    },
  },
  {
    id: "half-sent-body",
    tier: "careful",
    title: "A request of which half arrived runs nothing; the whole one then runs",
    source: "RFC 9112 §8; HTTP-5",
    requestsMax: 1 + TRIES_MAX,
    needs: ["count", "body"],
    async run(check) {
      const key = check.key();
      const observed = await check.observe(async () => {
        await check.send(key, { leaves: "half-way" });
        return [await check.settled(key, TRIES_MAX)];
      });
      expect(isAccepted(observed.answers[0]!), "the whole request to run under the key");
      check.expectEffects(observed, 1, "one effect");
      return PASS;
    },
  },
  {
    id: "chunked-body",
    tier: "careful",
    title: "A duplicate whose body comes in chunks is the same request",
    source: "RFC 9112 §7.1; HTTP-5",
    requestsMax: 2,
    needs: ["body"],
    async run(check) {
      const key = check.key();
      const observed = await check.observe(async () => [
        await check.run(key),
        await check.send(key, { framing: "chunked" }),
      ]);
      const [first, again] = observed.answers;
      if (NO_CHUNKS.has(again!.status)) skip(`chunked bodies get ${again!.status}`);
      expect(saysTheSame(first!, again!), "the first answer: framing is no part of a payload");
      check.expectNoSecond(observed);
      return PASS;
    },
  },
  {
    id: "pipelined-duplicates",
    tier: "careful",
    title: "Two duplicates in a row on one connection have one effect",
    source: "RFC 9112 §9.3.2; HTTP-6",
    requestsMax: 2,
    needs: ["evidence"],
    async run(check) {
      const key = check.key();
      const observed = await check.observe(() => check.pipelined(key));
      const [first, second] = observed.answers;
      expect(isAccepted(first!), "the first to run");
      expect(
        // A server may close the connection after an answer; then the second was never read.
        second!.status === 0 || second!.status === 409 || saysTheSame(first!, second!),
        "the first answer, or 409, for the second",
      );
      check.expectEffects(observed, 1, "one effect");
      return PASS;
    },
  },
  {
    id: "expect-continue",
    tier: "careful",
    title: "A request that waits for 100 (Continue) runs, and its duplicate is one",
    source: "RFC 9110 §10.1.1",
    requestsMax: 2,
    needs: ["body"],
    async run(check) {
      const key = check.key();
      const observed = await check.observe(async () => [
        await check.send(key, { expectsContinue: true }),
        await check.send(key),
      ]);
      const [first, again] = observed.answers;
      if (first!.status === 417) skip("expectations are refused");
      expect(isAccepted(first!), "the operation to run");
      expect(saysTheSame(first!, again!), "the first answer");
      check.expectNoSecond(observed);
      return PASS;
    },
  },
];
