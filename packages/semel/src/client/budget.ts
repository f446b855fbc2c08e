// A bucket of tokens that retries draw from, shared by all calls of a client, so that a server that
// is down is not kept down by its clients (the "standard" retry mode of the AWS SDKs has the same).

import { InvalidOption } from "../errors.ts";
import { assertInteger, assertKnownOptions } from "../options.ts";

/** How many retries a client may make beyond those that its successes pay for. */
export interface BudgetOptions {
  /** Tokens at the start, and at most. @default 500 */
  tokensMax?: number | undefined;
  /** Tokens that a retry takes. @default 5 */
  retryCost?: number | undefined;
}

/** A call that ends well gives back what its last retry took, and without a retry this much. */
const REFUND_WITHOUT_RETRY = 1;

export class RetryBudget {
  readonly #tokensMax: number;
  readonly #retryCost: number;
  #tokens: number;

  /** @param options `false` for a budget that never runs out */
  constructor(options: BudgetOptions | false) {
    if (options !== false) assertKnownOptions(options, ["tokensMax", "retryCost"], "`budget`");
    const { tokensMax = 500, retryCost = 5 } = options === false ? { retryCost: 0 } : options;
    assertInteger(tokensMax, "budget.tokensMax", 0, 2 ** 31);
    if (options !== false) assertInteger(retryCost, "budget.retryCost", 1, 2 ** 31);
    if (retryCost > tokensMax && tokensMax > 0) {
      throw new InvalidOption(
        `\`budget.retryCost\` (${retryCost}) is more than \`budget.tokensMax\` (${tokensMax}), so no retry could ever be made; set \`retry: { attemptsMax: 1 }\` for that`,
      );
    }
    this.#tokensMax = tokensMax;
    this.#retryCost = retryCost;
    this.#tokens = tokensMax;
  }

  get tokens(): number {
    return this.#tokens;
  }

  /** Pays for a retry, if there is enough. */
  take(): boolean {
    if (this.#tokens < this.#retryCost) return false;
    this.#tokens -= this.#retryCost;
    return true;
  }

  /** A call got its answer. */
  succeeded(hadRetry: boolean): void {
    const refund = hadRetry ? this.#retryCost : REFUND_WITHOUT_RETRY;
    this.#tokens = Math.min(this.#tokensMax, this.#tokens + refund);
  }
}
