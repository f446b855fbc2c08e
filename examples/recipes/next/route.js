// A Next.js route handler (15 or newer). In an application this is
// app/invoices/[invoice]/payments/route.js.

import { idempotent, operationOf } from "semel/fetch";
import { idempotency } from "../idempotency.mjs";
import { accountOf, pay } from "../shop.mjs";

/** @param {Request} request */
const callerOf = (request) => accountOf(request.headers.get("authorization"));

export const POST = idempotent(
  idempotency,
  { scope: callerOf, required: true },
  /** @param {{ params: Promise<{ invoice: string }> }} context */
  async (request, context) => {
    const { invoice } = await context.params;
    return pay(callerOf(request), invoice, request, operationOf(request)?.signal);
  },
);
