// Keys belong to their caller, and to the operations that have them.

import { type Case, expect, type Finding, PASS, skip } from "../case.ts";
import { type CaseRun, saysTheSame } from "../case-run.ts";
import { isAccepted } from "../exchange.ts";
import { marksOf } from "./answers.ts";

export const ISOLATION_CASES: Case[] = [
  {
    id: "credential-isolation",
    tier: "careful",
    title: "Two callers with the same key are two operations",
    source: "draft-07 §5; HTTP-4",
    requestsMax: 3,
    needs: ["other-auth", "evidence"],
    async run(check) {
      const key = check.key();
      const observed = await check.observe(async () => [
        await check.send(key),
        await check.send(key, { as: "other" }),
      ]);
      const [own, others] = observed.answers;
      const { status } = others!;
      if (status === 401 || status === 403) skip(`--other-auth is refused with ${status}`);
      expect(isAccepted(others!), "an operation of its own for the other caller");
      // Counters often show a caller's own only, so different answers say more, where there are any.
      if (check.facts.isDistinct) {
        expect(!saysTheSame(own!, others!), "another answer than the first caller's");
      } else {
        check.expectEffects(observed, 2, "an operation for each caller");
      }
      const again = await check.send(key);
      expect(
        !saysTheSame(others!, again) || saysTheSame(own!, others!),
        "the first caller's own answer, not the other one's",
      );
      return PASS;
    },
  },
  {
    id: "unauthenticated-replay",
    tier: "careful",
    title: "A caller without credentials gets no replay",
    source: "draft-07 §5; HTTP-4",
    requestsMax: 3,
    needs: ["credential"],
    async run(check) {
      if (isAccepted(await check.send(check.key(), { as: "nobody" }))) {
        skip("no credentials are demanded here");
      }
      const key = check.key();
      const own = await check.run(key);
      const stolen = await check.send(key, { as: "nobody" });
      expect(!isAccepted(stolen), "a refusal (401), as for any other key");
      expect(
        own.body.byteLength === 0 || !stolen.body.includes(own.body),
        "nothing of the first answer",
      );
      return PASS;
    },
  },
  {
    id: "get-unaffected",
    tier: "careful",
    title: "A GET with a used key is answered as one without",
    source: "HTTP-2; RFC 9110 §9.2.1",
    requestsMax: 3,
    run: (check) => isUnaffected(check, "GET"),
  },
  {
    id: "head-unaffected",
    tier: "careful",
    title: "A HEAD with a used key is answered as one without",
    source: "HTTP-2; RFC 9110 §9.3.2",
    requestsMax: 3,
    run: (check) => isUnaffected(check, "HEAD"),
  },
];

async function isUnaffected(check: CaseRun, method: string): Promise<Finding> {
  const key = check.key();
  const operation = await check.run(key);
  const plain = await check.send(undefined, { method });
  const keyed = await check.send(key, { method });
  expect(keyed.status === plain.status, `${plain.status}, as without the key`);
  const marks = marksOf(keyed).filter((mark) => !marksOf(plain).includes(mark));
  expect(marks.length === 0, "no header that speaks of a replay");
  expect(
    saysTheSame({ ...keyed, status: plain.status }, plain) ||
      !saysTheSame({ ...keyed, status: operation.status }, operation),
    `not the body of the ${check.target.method}`,
  );
  return PASS;
}
