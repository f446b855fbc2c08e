// A SvelteKit endpoint. In an application this is
// src/routes/invoices/[invoice]/payments/+server.js.

import { idempotent, operationOf } from "semel/fetch";
import { idempotency } from "../idempotency.mjs";
import { pay } from "../shop.mjs";

/** @typedef {import("./hooks.server.js").RequestEvent} RequestEvent */

/** The event of each request, because the scope is known to `locals` only. */
const events = /** @type {WeakMap<Request, RequestEvent>} */ (new WeakMap());

const once = idempotent(
  idempotency,
  { scope: (request) => events.get(request)?.locals.account, required: true },
  /** @type {(request: Request, event: RequestEvent) => Promise<Response>} */
  async (request, { params, locals }) =>
    pay(locals.account, params.invoice, request, operationOf(request)?.signal),
);

/** @param {RequestEvent} event */
export function POST(event) {
  events.set(event.request, event);
  return once(event.request, event);
}
