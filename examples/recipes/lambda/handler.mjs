// A Lambda function behind a function URL or API Gateway, with its records in DynamoDB.

import { DynamoDBClient } from "@aws-sdk/client-dynamodb";
import { DynamoDBDocument } from "@aws-sdk/lib-dynamodb";
import { Idempotency } from "semel";
import { dynamodbStore } from "semel/dynamodb";
import { idempotent, operationOf } from "semel/fetch";
import { pay } from "../shop.mjs";
import { callerOf, lambdaHandler } from "./events.mjs";

const document = DynamoDBDocument.from(new DynamoDBClient({}));
const table = process.env.SEMEL_TABLE ?? "semel";

const idempotency = new Idempotency({
  store: dynamodbStore(document, { table, clockSkew: "2s" }),
  onError: "hold",
  // Renewed while the handler runs. After an invocation that Lambda ended, duplicates hear
  // `operation-in-progress` for this long and `clockSkew` at most, then `outcome-unknown`.
  lease: /** @type {import("semel").Duration} */ (process.env.SEMEL_LEASE ?? "30s"),
  completionRetry: "5s",
  // The table's time to live removes what has expired; timers of a frozen process would not.
  sweep: false,
});

const PATH = /^\/invoices\/([\w-]+)\/payments$/;

/** What ending the operation may take, `completionRetry` and a little; the handler has to leave it. */
const SETTLE_MS = 6_000;

export const handler = lambdaHandler(
  idempotent(
    idempotency,
    { scope: callerOf, required: true },
    /**
     * @param {import("./event-types.d.ts").HttpEvent} _event
     * @param {import("./event-types.d.ts").Context} context
     */
    async (request, _event, context) => {
      const [, invoice] = PATH.exec(new URL(request.url).pathname) ?? [];
      if (invoice === undefined) return new Response(null, { status: 404 });
      const operation = operationOf(request);
      const handlerMs = context.getRemainingTimeInMillis() - SETTLE_MS;
      if (handlerMs <= 0) {
        operation?.notApplied();
        return new Response(null, { status: 503, headers: { "retry-after": "1" } });
      }
      const deadline = AbortSignal.timeout(handlerMs);
      const signal = operation ? AbortSignal.any([operation.signal, deadline]) : deadline;
      return pay(callerOf(request), invoice, request, signal);
    },
  ),
);
