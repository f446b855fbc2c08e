// What the recipes share: who calls, and the effect that must happen once, a charge by a bank that knows
// nothing of idempotency.

import { NotApplied } from "semel";

const ACCOUNTS = new Map([
  ["Bearer alice-token", "alice"],
  ["Bearer bob-token", "bob"],
]);

/**
 * The account that a credential belongs to.
 *
 * @param {string | null | undefined} authorization the header
 */
export function accountOf(authorization) {
  return ACCOUNTS.get(authorization ?? "");
}

/**
 * @typedef {{ invoice: string, amount: number }} Payment an amount in cents
 * @param {unknown} value what a client sent
 * @returns {Payment}
 * @throws {TypeError} when it is no payment
 */
export function parsePayment(value) {
  const { invoice, amount } = /** @type {Partial<Payment>} */ (value ?? {});
  if (typeof invoice !== "string" || invoice === "") throw new TypeError("`invoice` must be named");
  if (typeof amount !== "number" || !Number.isSafeInteger(amount) || amount <= 0) {
    throw new TypeError("`amount` must be a positive whole number of cents");
  }
  return { invoice, amount };
}

/**
 * Has the bank charge an account.
 *
 * @param {string} account
 * @param {Payment} payment
 * @param {AbortSignal | undefined} signal
 * @returns {Promise<{ charge: number } | undefined>} the receipt, or `undefined` when the bank declines
 * @throws {NotApplied} when the bank was never reached; any other error leaves the outcome unknown
 */
export async function charge(account, payment, signal) {
  const response = await fetch(bankUrl(), {
    method: "POST",
    body: JSON.stringify({ account, ...payment }),
    signal: signal ?? null,
  }).catch((error) => {
    throw error.cause?.code === "ECONNREFUSED" ? new NotApplied(error) : error;
  });
  if (response.status === 402) return undefined;
  if (!response.ok) throw new Error(`The bank answered ${response.status}`);
  return /** @type {Promise<{ charge: number }>} */ (response.json());
}

/**
 * Answers a request to pay an invoice.
 *
 * @param {string | undefined} account
 * @param {string | undefined} invoice
 * @param {Request} request
 * @param {AbortSignal | undefined} signal
 * @returns {Promise<Response>}
 */
export async function pay(account, invoice, request, signal) {
  let payment;
  try {
    const body = /** @type {Partial<Payment>} */ (await request.json());
    payment = parsePayment({ ...body, invoice });
  } catch (error) {
    return Response.json({ error: /** @type {Error} */ (error).message }, { status: 400 });
  }
  const receipt = await charge(account ?? "", payment, signal);
  if (receipt === undefined) return Response.json({ error: "declined" }, { status: 402 });
  return Response.json({ ...receipt, ...payment }, { status: 201 });
}

function bankUrl() {
  const url = process.env.BANK_URL;
  if (url === undefined) throw new NotApplied(new Error("BANK_URL is not set"));
  return url;
}
