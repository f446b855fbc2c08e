// What refusals say, and what they keep to themselves.

import { type Case, expect, info, PASS } from "../case.ts";
import type { CaseRun } from "../case-run.ts";
import { type Answer, headerOf, isAccepted } from "../exchange.ts";
import { isDescribed, mismatchOf, problemOf } from "./answers.ts";

export const REFUSAL_CASES: Case[] = [
  {
    id: "missing-key",
    tier: "draft",
    title: "Where keys are required (--required), a request without one is refused with 400",
    source: "draft-07 §2.7",
    requestsMax: 1,
    async run(check) {
      const observed = await check.observe(async () => [await check.send(undefined)]);
      const answer = observed.answers[0]!;
      if (isAccepted(answer) && !check.target.isRequired) return info("keys are optional here");
      expect(answer.status === 400, "400 for a request without a key");
      check.expectEffects(observed, 0, "nothing to run");
      return PASS;
    },
  },
  {
    id: "mismatch-described",
    tier: "draft",
    title: "The refusal of another payload says what is the matter: problem details, or a Link",
    source: "draft-07 §2.7; RFC 9457",
    requestsMax: 2,
    needs: ["other-body"],
    async run(check) {
      expect(
        isDescribed(await mismatchOf(check)),
        'application/problem+json, or Link: <…>; rel="describedby"',
      );
      return PASS;
    },
  },
  {
    id: "problem-details",
    tier: "careful",
    title: "Refusals are problem details whose status is the answer's",
    source: "HTTP-11; RFC 9457 §3",
    requestsMax: 3,
    needs: ["other-body"],
    async run(check) {
      for (const refusal of await refusalsOf(check)) {
        const problem = problemOf(refusal);
        expect(problem !== undefined, "application/problem+json");
        expect(
          problem["status"] === undefined || problem["status"] === refusal.status,
          `the member status to be ${refusal.status}`,
        );
        expect(
          typeof problem["title"] === "string" || typeof problem["type"] === "string",
          "a title or a type",
        );
      }
      return PASS;
    },
  },
  {
    id: "retry-guidance",
    tier: "careful",
    title: "The refusal of another payload says whether to keep the key or take a new one",
    source: "HTTP-11",
    requestsMax: 2,
    needs: ["other-body"],
    async run(check) {
      const refusal = await mismatchOf(check);
      const inHeader = refusal.headers.some(([name]) => /^retry-after$|should-retry$/.test(name));
      expect(
        inHeader || problemOf(refusal)?.["retry"] !== undefined,
        "a member retry, or a header such as Retry-After or Stripe-Should-Retry",
      );
      return PASS;
    },
  },
  {
    id: "refusals-not-cached",
    tier: "careful",
    title: "Refusals are not to be cached",
    source: "HTTP-11; RFC 9111 §5.2.2.5",
    requestsMax: 3,
    needs: ["other-body"],
    async run(check) {
      for (const refusal of await refusalsOf(check)) {
        const control = headerOf(refusal, "cache-control") ?? "";
        expect(/\bno-store\b/i.test(control), "Cache-Control: no-store");
      }
      return PASS;
    },
  },
  {
    id: "key-not-reflected",
    tier: "careful",
    title: "Refusals do not repeat the key",
    source: "HTTP-11; draft-07 §5",
    requestsMax: 3,
    needs: ["other-body"],
    async run(check) {
      const mark = `semel<i>${check.key()}`;
      const answers = [
        await check.send(mark),
        await check.send(mark, { body: check.target.otherBody! }),
        await check.send(undefined, { keyLines: [`"${mark}`] }),
      ];
      const reflecting = answers.filter(
        (answer) => !isAccepted(answer) && answer.body.toString().includes(mark),
      );
      expect(reflecting.length === 0, "no refusal with the key in its body");
      return PASS;
    },
  },
];

/** Three requests. @returns refusals of two kinds: of another payload, and of a malformed key */
async function refusalsOf(check: CaseRun): Promise<Answer[]> {
  const mismatch = await mismatchOf(check);
  const malformed = await check.send(undefined, { keyLines: ['""'] });
  return isAccepted(malformed) ? [mismatch] : [mismatch, malformed];
}
