// Somebody else's bank, as far as it matters here: it pays, it knows what it paid, and it is slow.

import { appendFileSync, existsSync, readFileSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";

/** @param {string} ledger the file that holds what was paid, one payment a line */
export function openBank(ledger) {
  const payments = () =>
    existsSync(ledger)
      ? readFileSync(ledger, "utf8")
          .trimEnd()
          .split("\n")
          .map((line) => JSON.parse(line))
      : [];
  return {
    payments,
    /** @param {{ reference: string, to: string, amount: number }} payment */
    async pay(payment) {
      appendFileSync(ledger, `${JSON.stringify(payment)}\n`);
      await delay(1_000);
      return payment;
    },
    /** @param {string} reference */
    find: (reference) => payments().find((payment) => payment.reference === reference),
  };
}
