// What makes two requests under one key the same, and what happens when they are not.

import { type Case, expect, type Finding, info, PASS, skip } from "../case.ts";
import { type CaseRun, type Sending, saysTheSame } from "../case-run.ts";
import { type Answer, isAccepted } from "../exchange.ts";
import { canonicalText, reordered, respaced, withMember } from "../payload.ts";

/** Shorter texts may be in two answers by chance. */
const TRACE_CHARACTERS_MIN = 12;
const LARGE_BYTES = 64 * 2 ** 10;

export const PAYLOAD_CASES: Case[] = [
  {
    id: "refuses-other-payload",
    tier: "draft",
    title: "A used key with another payload is refused with 422, and runs nothing",
    source: "draft-07 §2.7; RFC 9110 §15.5.21",
    requestsMax: 2,
    needs: ["other-body"],
    async run(check) {
      const key = check.key();
      const observed = await check.observe(async () => [
        await check.run(key),
        await check.send(key, { body: check.target.otherBody! }),
      ]);
      expect(observed.answers[1]!.status === 422, "422 for the other payload");
      check.expectEffects(observed, 1, "one effect");
      return PASS;
    },
  },
  {
    id: "mismatch-keeps-original",
    tier: "careful",
    title: "After another payload was sent, the original is still replayed",
    source: "HTTP-7; draft-07 §2.6",
    requestsMax: 3,
    needs: ["other-body"],
    async run(check) {
      const key = check.key();
      const observed = await check.observe(async () => [
        await check.run(key),
        await check.send(key, { body: check.target.otherBody! }),
        await check.send(key),
      ]);
      const [first, other, again] = observed.answers;
      expect(saysTheSame(first!, again!), "the first answer, as if nothing had come between");
      // What the other payload did is another case's.
      if (!isAccepted(other!)) check.expectNoSecond(observed);
      return PASS;
    },
  },
  {
    id: "mismatch-does-not-leak",
    tier: "careful",
    title: "The answer to another payload reveals nothing of the first request or its answer",
    source: "SM-2; draft-07 §5",
    requestsMax: 3,
    needs: ["other-body"],
    async run(check) {
      const canary = `semel-canary-${check.key()}`;
      const { body, otherBody } = check.target;
      const hasCanary = withCanary(body, canary);
      let key = check.key();
      let first = await check.send(key, { body: hasCanary ?? body });
      if (!isAccepted(first)) {
        key = check.key();
        first = await check.run(key);
      }
      const other = await check.send(key, { body: otherBody! });
      if (isAccepted(other)) skip("the other payload is not refused");
      const text = other.body.toString();
      expect(!text.includes(canary), "nothing of the first payload in the answer");
      expect(
        !tracesOf(first, check.facts.fresh).some((trace) => text.includes(trace)),
        "nothing of the first answer in the answer to another payload",
      );
      return PASS;
    },
  },
  {
    id: "query-counts",
    tier: "careful",
    title: "The same key with another query string does not get the first answer",
    source: "HTTP-5",
    requestsMax: 2,
    async run(check) {
      const url = new URL(check.target.url);
      url.searchParams.append("semel-check", "1");
      return isApart(check, { url });
    },
  },
  {
    id: "method-counts",
    tier: "careful",
    title: "The same key with another unsafe method does not get the first answer",
    source: "HTTP-5; RFC 9110 §9.2.1",
    requestsMax: 2,
    needs: ["other-method"],
    run: (check) => isApart(check, { method: check.target.otherMethod! }),
  },
  {
    id: "number-collapse",
    tier: "careful",
    title: "9007199254740993 and 9007199254740992 are two payloads",
    source: "HTTP-5; RFC 8259 §6",
    requestsMax: 3,
    needs: ["json"],
    run: (check) => isToldApart(check, "9007199254740993", "9007199254740992"),
  },
  {
    id: "late-difference",
    tier: "careful",
    title: "Large payloads that differ in their last character are two payloads",
    source: "HTTP-5",
    requestsMax: 3,
    needs: ["json"],
    run: (check) => {
      const long = "x".repeat(LARGE_BYTES);
      return isToldApart(check, `"${long}1"`, `"${long}2"`);
    },
  },
  {
    id: "large-body",
    tier: "careful",
    title: "A large request is run once, or refused in the same way twice",
    source: "HTTP-5; RFC 9110 §15.5.14",
    requestsMax: 2,
    needs: ["json"],
    run: (check) =>
      isConsistent(check, {
        body: withMember(check.target.body, `"${"x".repeat(LARGE_BYTES)}"`),
      }),
  },
  {
    id: "unknown-content-type",
    tier: "careful",
    title: "A request of an unknown media type is no server error, and runs at most once",
    source: "RFC 9110 §15.5.16; HTTP-5",
    requestsMax: 2,
    run: (check) =>
      isConsistent(check, { headers: [["Content-Type", "application/x-semel-check"]] }),
  },
  reported("json-member-order", "What the order of JSON members means", "json", (check) => ({
    body: reordered(withMember(check.target.body, "1")),
    // So that there are two members to change places.
    first: { body: withMember(check.target.body, "1") },
  })),
  reported("json-whitespace", "What whitespace in JSON means", "json", (check) => ({
    body: respaced(check.target.body),
  })),
  reported("media-type", "What the same bytes under another media type mean", "body", () => ({
    headers: [["Content-Type", "text/plain"]],
  })),
];

/** Sends the operation, then under the same key something that is not it. */
async function isApart(check: CaseRun, sending: Sending): Promise<Finding> {
  const key = check.key();
  const observed = await check.observe(async () => [
    await check.send(key),
    await check.send(key, sending),
  ]);
  const [first, second] = observed.answers;
  // Refused as another payload, or for what it is: in both cases nobody got a wrong answer.
  if (!isAccepted(second!)) return PASS;
  if (observed.effects === undefined && saysTheSame(first!, second!)) {
    skip("both answers are the same; --count would tell whether it ran");
  }
  check.expectEffects(observed, 2, "a refusal (422), or an operation of its own");
  return PASS;
}

/** Sends two payloads under one key that differ in one added member; the second must be refused. */
async function isToldApart(check: CaseRun, one: string, other: string): Promise<Finding> {
  const { body } = check.target;
  const key = check.key();
  const first = await check.send(key, { body: withMember(body, one) });
  if (!isAccepted(first)) skip(`an added member is refused with ${first.status}`);
  const second = await check.send(key, { body: withMember(body, other) });
  if (!isAccepted(second)) return PASS;
  // A fingerprint of chosen members may leave this one out; then nothing can be told by it.
  const control = await check.send(key, { body: withMember(body, "1") });
  if (saysTheSame(second, control)) skip("an added member does not count as payload");
  expect(false, "the second payload to be refused (422)");
}

async function isConsistent(check: CaseRun, sending: Sending): Promise<Finding> {
  const key = check.key();
  const observed = await check.observe(async () => [
    await check.send(key, sending),
    await check.send(key, sending),
  ]);
  const [first, again] = observed.answers as [Answer, Answer];
  expect(first.status > 0 && first.status < 500, "an answer that is no server error");
  if (!isAccepted(first)) {
    expect(first.status === again.status, `${first.status} again`);
    return info(`refused with ${first.status}`);
  }
  expect(saysTheSame(first, again), "the first answer again");
  check.expectNoSecond(observed);
  return PASS;
}

/** Either answer is right: what counts as the payload is the API's to say (draft-07 §2.4). */
function reported(
  id: string,
  title: string,
  need: "json" | "body",
  sendings: (check: CaseRun) => Sending & { first?: Sending },
): Case {
  return {
    ...{ id, title },
    tier: "careful",
    source: "draft-07 §2.4; HTTP-5",
    requestsMax: 2,
    needs: [need],
    async run(check) {
      const key = check.key();
      const { first: plain = {}, ...changed } = sendings(check);
      const first = await check.send(key, plain);
      const second = await check.send(key, changed);
      if (!isAccepted(first)) skip(`refused with ${first.status}`);
      if (!isAccepted(second)) return info(`another payload: ${second.status}`);
      return info(saysTheSame(first, second) ? "the same payload" : "another operation");
    },
  };
}

function withCanary(body: Buffer, canary: string): Buffer | undefined {
  const text = canonicalText(body);
  return text.startsWith("{") ? withMember(body, `"${canary}"`) : undefined;
}

/** RFC 3339 §5.6, and RFC 9110 §5.6.7: two answers of the same second have the same ones. */
const DATE =
  /^(?:\d{4}-\d\d-\d\d[T ]\d\d:\d\d[\d:.,]*(?:Z|[+-]\d\d:?\d\d)?|[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} [\d:]{8} GMT)$/i;

/** What only the one who has seen an answer can know: its longer texts that no other answer has. */
function tracesOf(answer: Answer, others: readonly Answer[]): string[] {
  const texts: string[] = [];
  try {
    JSON.parse(answer.body.toString(), (_, value) => {
      if (typeof value === "string") texts.push(value);
    });
  } catch {
    // What is no JSON has its whole text.
  }
  return [...texts, answer.body.toString()].filter(
    (text) =>
      text.length >= TRACE_CHARACTERS_MIN &&
      !DATE.test(text) &&
      !others.some(({ body }) => body.includes(text)),
  );
}
