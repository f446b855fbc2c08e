// A tRPC router whose mutation charges once for each key.

import { initTRPC, TRPCError } from "@trpc/server";
import { NotApplied } from "semel";
import { idempotency } from "../idempotency.mjs";
import { accountOf, charge, parsePayment } from "../shop.mjs";
import {
  formatIdempotencyError,
  idempotencyContext,
  idempotentProcedure,
} from "./idempotent-procedure.mjs";

/** @typedef {{ account: string | undefined } & ReturnType<typeof idempotencyContext>} Context */

/**
 * @param {Pick<import("@trpc/server/adapters/standalone").CreateHTTPContextOptions, "req" | "info">} options
 * @returns {Context}
 */
export const createContext = ({ req, info }) => ({
  account: accountOf(req.headers.authorization),
  ...idempotencyContext(req.headers["idempotency-key"], info),
});

const t = /** @type {ReturnType<typeof initTRPC.context<Context>>} */ (initTRPC.context()).create({
  errorFormatter: formatIdempotencyError,
});

/** @param {Context} ctx */
const scope = (ctx) => ctx.account;

export const router = t.router({
  pay: t.procedure
    .input(parsePayment)
    .use(idempotentProcedure(idempotency, { scope }))
    .mutation(async ({ ctx, input }) => {
      const receipt = await charge(ctx.account ?? "", input, ctx.operation?.signal);
      if (receipt) return { ...receipt, ...input };
      // The cause proves that nothing was applied: the key may run again.
      throw new TRPCError({ code: "PAYMENT_REQUIRED", cause: new NotApplied() });
    }),
});
