// What several cases look for in answers.

import { skip } from "../case.ts";
import type { CaseRun } from "../case-run.ts";
import { type Answer, headerLinesOf, headerOf, isAccepted } from "../exchange.ts";

/** The headers that speak of replays: `Idempotent-Replayed`, `X-Idempotency-Status`, … */
export function marksOf(answer: Answer): string[] {
  return (
    answer.headers
      // Some servers send the key back, which says nothing.
      .filter(([name]) => /idempot|replay/.test(name) && !/-(?:expires|key)$/.test(name))
      .map(([name, value]) => `${name}: ${value}`)
  );
}

/** The body as RFC 9457 problem details, when it says that it is. */
export function problemOf(answer: Answer): Record<string, unknown> | undefined {
  const type = headerOf(answer, "content-type") ?? "";
  if (!/^application\/problem\+json\s*(?:;|$)/i.test(type)) return undefined;
  try {
    const value: unknown = JSON.parse(answer.body.toString());
    return typeof value === "object" && value !== null ? { ...value } : undefined;
  } catch {
    return undefined;
  }
}

/** Whether an answer says what went wrong, in one of the ways of the draft (§2.7). */
export function isDescribed(answer: Answer): boolean {
  const links = headerLinesOf(answer, "link").join(", ");
  return problemOf(answer) !== undefined || /rel="?describedby\b/i.test(links);
}

/** Two requests. @returns the answer to another payload under a used key, when it is refused */
export async function mismatchOf(check: CaseRun, key = check.key()): Promise<Answer> {
  const first = await check.send(key);
  if (!isAccepted(first)) skip("the operation is refused under this key");
  const other = await check.send(key, { body: check.target.otherBody! });
  if (isAccepted(other) || other.status === 0) skip("the other payload is not refused");
  return other;
}
