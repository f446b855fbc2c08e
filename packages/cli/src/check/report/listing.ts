// The cases before they run: what each would send, and which would be skipped.

import type { Case } from "../case.ts";
import { lacking, SETUP_REQUESTS_MAX } from "../run.ts";
import type { Target } from "../target.ts";
import type { Colors } from "./text.ts";

/** @param target without one, nothing is said about what would be skipped */
export function listed(cases: readonly Case[], target: Target | undefined) {
  return cases.map((theCase) => {
    const { id, tier, title, source, requestsMax } = theCase;
    const skipped = target && lacking(theCase, target, undefined);
    return { id, tier, title, source, requestsMax, ...(skipped !== undefined && { skipped }) };
  });
}

export function textListing(
  cases: readonly Case[],
  target: Target | undefined,
  colors: Colors,
): string {
  const entries = listed(cases, target);
  const width = Math.max(...entries.map(({ id }) => id.length));
  const lines = entries.map(({ id, tier, title, requestsMax, skipped }) => {
    const requests = String(requestsMax).padStart(4);
    const text = `${tier.padEnd(7)}  ${id.padEnd(width)}  ${requests}  ${title}`;
    return skipped === undefined ? text : colors.dim(`${text} (skipped: ${skipped})`);
  });
  const sending = entries.filter(({ skipped }) => skipped === undefined);
  const most = sending.reduce((sum, { requestsMax }) => sum + requestsMax, SETUP_REQUESTS_MAX);
  const head = `${"tier".padEnd(7)}  ${"case".padEnd(width)}  most requests, and what must be so`;
  const sum = `${entries.length} cases, at most ${most} requests, ${SETUP_REQUESTS_MAX} of them before the first case; nothing was sent`;
  return `${[colors.bold(head), ...lines, "", sum].join("\n")}\n`;
}
