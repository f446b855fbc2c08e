// Duplicates that arrive while the first request is under way.

import { type Case, expect, PASS, skip } from "../case.ts";
import { type CaseRun, pause, saysTheSame } from "../case-run.ts";
import { type Answer, headerOf, isAccepted } from "../exchange.ts";
import { isDescribed } from "./answers.ts";

const TOGETHER = 8;
const TRIES_MAX = 20;
/** After the first request, so that it is surely under way. */
const HEAD_START_MS = 100;
/** What may be said to a duplicate that comes too early, or to one of too many. */
const NOT_NOW = new Set([409, 429, 503]);

export const CONCURRENCY_CASES: Case[] = [
  {
    id: "concurrent-duplicates",
    tier: "draft",
    title: "Duplicates of a running request get 409, or wait for its answer; one runs",
    source: "draft-07 §2.6, Concurrent Request; §2.7",
    requestsMax: TOGETHER,
    needs: ["evidence"],
    async run(check) {
      const { slow, url } = check.target;
      const key = check.key();
      const observed = await check.observe(() =>
        check.together(TOGETHER, key, { url: slow ?? url }),
      );
      const { answers } = observed;
      const accepted = answers.filter(isAccepted);
      check.expectEffects(observed, 1, "one effect");
      expect(accepted.length > 0, "one of the requests to be answered with the result");
      expect(
        answers.every((answer) => answer.status === 409 || saysTheSame(answer, accepted[0]!)),
        "409, or the answer of the first",
      );
      return PASS;
    },
  },
  {
    id: "hundred-duplicates",
    tier: "careful",
    title: "A storm of duplicates (100, see --duplicates) has one effect and one answer",
    source: "SM-16, HTTP-6",
    requestsMax: 100 + TRIES_MAX,
    needs: ["evidence"],
    async run(check) {
      const key = check.key();
      const sending = { url: check.target.slow ?? check.target.url };
      const observed = await check.observe(async () => [
        ...(await check.together(check.target.duplicates, key, sending)),
        await check.settled(key, TRIES_MAX, sending),
      ]);
      const result = observed.answers.at(-1)!;
      check.expectEffects(observed, 1, "one effect");
      expect(isAccepted(result), "a duplicate that comes after the storm to get the result");
      expect(
        observed.answers.every(
          (answer) => NOT_NOW.has(answer.status) || saysTheSame(answer, result),
        ),
        "409 (or 429 or 503, where there are too many), or the one result",
      );
      return PASS;
    },
  },
  {
    id: "conflict-described",
    tier: "draft",
    title: "The 409 says what is the matter: problem details, or a Link to documentation",
    source: "draft-07 §2.7; RFC 9457",
    requestsMax: TOGETHER,
    async run(check) {
      const conflict = await conflictOf(check);
      expect(isDescribed(conflict), 'application/problem+json, or Link: <…>; rel="describedby"');
      return PASS;
    },
  },
  {
    id: "conflict-retry-after",
    tier: "careful",
    title: "The 409 says when to ask again",
    source: "HTTP-6; RFC 9110 §10.2.3",
    requestsMax: TOGETHER,
    async run(check) {
      const after = headerOf(await conflictOf(check), "retry-after");
      expect(
        after !== undefined && (/^\d+$/.test(after) || !Number.isNaN(Date.parse(after))),
        "Retry-After with seconds or a date",
      );
      return PASS;
    },
  },
  {
    id: "mismatch-while-running",
    tier: "careful",
    title: "Another payload does not run, nor get the answer, while the first is under way",
    source: "SM-2; draft-07 §2.7",
    requestsMax: 2,
    needs: ["slow", "other-body", "evidence"],
    async run(check) {
      const key = check.key();
      const url = check.target.slow!;
      const observed = await check.observe(async () => {
        const first = check.send(key, { url });
        await pause(HEAD_START_MS);
        const second = await check.send(key, { url, body: check.target.otherBody! });
        return [await first, second];
      });
      const { status } = observed.answers[1]!;
      expect(status === 422 || status === 409, "422, or 409 until the first is done");
      check.expectEffects(observed, 1, "one effect");
      return PASS;
    },
  },
];

/** Up to `TOGETHER` requests. @returns the 409 of a duplicate that came too early */
async function conflictOf(check: CaseRun): Promise<Answer> {
  const { slow } = check.target;
  const key = check.key();
  const answers = slow ? await overlapping(check, key, slow) : await check.together(TOGETHER, key);
  const conflict = answers.find(({ status }) => status === 409);
  return (
    conflict ??
    skip(
      slow
        ? "no duplicate got 409"
        : "no duplicate met the first while it ran; --slow names an address where they do",
    )
  );
}

async function overlapping(check: CaseRun, key: string, url: URL): Promise<Answer[]> {
  const first = check.send(key, { url });
  await pause(HEAD_START_MS);
  const second = await check.send(key, { url });
  return [await first, second];
}
