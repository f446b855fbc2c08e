// What becomes of a key whose request failed. APIs differ, and each way has its reasons: reported.

import { type Case, info, skip } from "../case.ts";
import { saysTheSame } from "../case-run.ts";
import { type Answer, isAccepted } from "../exchange.ts";
import { marksOf } from "./answers.ts";

export const FAILURE_CASES: Case[] = [
  {
    id: "after-client-error",
    tier: "careful",
    title: "What becomes of a key whose request was wrong (4xx)",
    source: "draft-07 §2.6, Retry; HTTP-12",
    requestsMax: 3,
    needs: ["json"],
    async run(check) {
      const key = check.key();
      const body = Buffer.from('{"semelCheck":');
      const first = await check.send(key, { body });
      if (isAccepted(first)) skip("broken JSON is accepted here");
      const again = await check.send(key, { body });
      const corrected = await check.send(key);
      return info(
        `${first.status}; the same again ${becomes(first, again)}; corrected under the same key: ${corrected.status}`,
      );
    },
  },
  {
    id: "after-server-error",
    tier: "careful",
    title: "What becomes of a key whose request failed (5xx)",
    source: "draft-07 §2.6, Retry; HTTP-12",
    requestsMax: 2,
    needs: ["fail"],
    async run(check) {
      const key = check.key();
      const url = check.target.fail!;
      const first = await check.send(key, { url });
      if (first.status < 500) skip(`--fail answers ${first.status}, no server error`);
      const again = await check.send(key, { url });
      return info(`${first.status}; the same again ${becomes(first, again)}`);
    },
  },
];

function becomes(first: Answer, again: Answer): string {
  const isMarked = marksOf(again).some((mark) => !marksOf(first).includes(mark));
  if (!saysTheSame(first, again)) return `gets another answer (${again.status})`;
  return isMarked ? "is replayed" : "gets the same answer, unmarked";
}
