// A ride in a rocket, after Brandur Leach's "rocket rides": it is booked in our database, paid through
// somebody else's service, a rocket is found by a third, and a receipt goes out. Any process may die at
// any of these points; another one goes on, and nothing is done twice.

import { OperationFailed } from "semel";

/**
 * @typedef {{ rider: string, to: string, amount: number }} RideInput
 * @typedef {import("./database.mjs").Rides} Rides
 */

/**
 * Defines the operation, and who delivers its effects.
 *
 * @param {object} parts
 * @param {import("semel").Idempotency} parts.idempotency
 * @param {Rides} parts.rides
 * @param {string} parts.provider the address of the provider
 * @param {typeof fetch} [parts.request] asks the provider
 * @param {string} [parts.suffix] tells several of them apart in one database
 */
export function rocketRides({ idempotency, rides, provider, request = fetch, suffix = "" }) {
  const receipt = `receipt${suffix}`;

  /**
   * @param {string} path
   * @param {string} key what the provider knows a repetition by
   * @param {object} body
   * @param {AbortSignal} signal
   */
  async function ask(path, key, body, signal) {
    const response = await request(`${provider}${path}`, {
      method: "POST",
      headers: { "Content-Type": "application/json", "Idempotency-Key": key },
      body: JSON.stringify(body),
      signal,
    });
    const answer = await response.json();
    if (response.ok) return answer;
    // The provider has decided: no further try changes that. Anything else is tried again.
    const isFinal = response.status === 402 || response.status === 409;
    throw isFinal ? new OperationFailed(new Error(answer.error)) : new Error(answer.error);
  }

  const ride = idempotency.operation(`ride${suffix}`, {
    retry: { base: "200ms", cap: "5s" },
    lease: "2s",
    /** @param {RideInput} input */
    handler: async (input, { key, step }) => {
      // In one transaction of our database with the mark that it was done.
      await step.transaction(
        "book",
        async (transaction) => {
          await rides.book(transaction, key, input);
        },
        { undo: () => rides.change(key, "cancelled") },
      );
      const charge = await step(
        "charge",
        ({ idempotencyKey, signal }) =>
          ask("/charges", idempotencyKey, { ride: key, amount: input.amount }, signal),
        {
          undo: ({ id }, { idempotencyKey, signal }) =>
            ask("/refunds", idempotencyKey, { ride: key, charge: id }, signal),
        },
      );
      const { rocket } = await step("rocket", ({ idempotencyKey, signal }) =>
        ask("/rockets", idempotencyKey, { ride: key, to: input.to }, signal),
      );
      // The receipt is recorded with the confirmation: there is no one without the other.
      await step.transaction("confirm", async (transaction, { effect }) => {
        await rides.confirm(transaction, key, charge.id, rocket);
        await effect(receipt, { ride: key, to: input.rider, amount: input.amount });
      });
      return { ride: key, charge: charge.id, rocket };
    },
  });

  /** @type {import("semel").RelayHandlers} */
  const deliveries = {
    [receipt]: ({ id, payload, signal }) => ask("/receipts", id, payload, signal),
  };
  return { ride, deliveries };
}
