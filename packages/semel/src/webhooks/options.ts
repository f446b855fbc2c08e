// Options of a webhook endpoint, checked once when it is set up.

import { type Duration, durationMs } from "../duration.ts";
import type { Idempotency } from "../engine/idempotency.ts";
import { OPERATION_OPTIONS, type OperationOptions } from "../engine/policy.ts";
import { assertIdempotency } from "../engine/settings.ts";
import { InvalidOption } from "../errors.ts";
import { HttpLayer } from "../http/exchange.ts";
import type { HttpOptions } from "../http/options.ts";
import type { HttpResponse } from "../http/response.ts";
import { assertKnownOptions, shown } from "../options.ts";
import type { Delivery, Verifier } from "./delivery.ts";

/** Options of {@link webhook}. */
export interface WebhookOptions extends OperationOptions<Partial<HttpResponse>> {
  /**
   * Verifies a delivery before anything else is done with it: `stripe(secret)`, `github(secret)`,
   * `standardWebhooks(new Webhook(secret))`, or a function that throws for what it cannot vouch for.
   */
  verify: Verifier;
  /**
   * Names the endpoint. Senders give one event the same id at each of their endpoints, so two
   * endpoints of one application need two names. There is no default: a path is not covered by the
   * signature, and has many spellings.
   */
  scope: string;
  /** Takes the delivery's id from elsewhere. @default what `verify` says */
  id?: ((delivery: Omit<Delivery, "id">) => string | undefined) | undefined;
  /**
   * What of the body counts besides the id; the same id with another content is refused with 422
   * then. Senders may rewrite parts of an event when they repeat it. @default nothing
   */
  fingerprint?: NonNullable<HttpOptions<Delivery>["fingerprint"]> | undefined;
  /**
   * How long a delivery is remembered, from its completion.
   *
   * @default the time for which its sender repeats it, where that is known and longer than the
   * instance's own
   */
  retention?: Duration | undefined;
  /** Bodies are read up to here, verified or not; larger ones get 413. @default 1 MiB */
  maxBodyBytes?: number | undefined;
  /** Which responses become the answer to duplicates. @default 2xx, 3xx, most 4xx (HTTP-12) */
  shouldStore?: NonNullable<HttpOptions<Delivery>["shouldStore"]> | undefined;
  /** Address of your documentation, for `Link: <…>; rel="describedby"` in problems. */
  documentation?: string | undefined;
  /** Hears why a delivery was refused with 401; its sender is not told. @default nobody */
  onRejected?: ((reason: unknown) => void) | undefined;
  /**
   * For `node()`: hears of what the handler or a function in these options throws; the sender is
   * answered with 500 if no answer has begun. @default console.error
   */
  reportError?: ((error: unknown) => void) | undefined;
}

const OPTIONS = [
  ...OPERATION_OPTIONS,
  "verify",
  "scope",
  "id",
  "fingerprint",
  "maxBodyBytes",
  "shouldStore",
  "documentation",
  "onRejected",
  "reportError",
];

/**
 * The HTTP layer of a webhook endpoint.
 *
 * @throws {InvalidOption}
 */
export function webhookLayer(
  idempotency: Idempotency,
  options: WebhookOptions,
): HttpLayer<Delivery> {
  assertIdempotency(idempotency);
  assertKnownOptions(options, OPTIONS, "webhook()");
  const { verify, id, scope, onRejected, reportError, ...rest } = options;
  assertFunction(verify, "verify", "a verifier, such as `stripe(secret)`");
  if (id !== undefined) assertFunction(id, "id", "a function of the delivery");
  if (onRejected !== undefined) assertFunction(onRejected, "onRejected", "a function");
  if (reportError !== undefined) assertFunction(reportError, "reportError", "a function");
  if (typeof scope !== "string" || scope === "") {
    throw new InvalidOption(
      `\`scope\` must be given: a string that names this endpoint, such as "stripe-payments"; got ${shown(scope)}`,
    );
  }
  return new HttpLayer<Delivery>(idempotency, {
    ...rest,
    ...retained(idempotency, options),
    fingerprint: options.fingerprint ?? (() => null),
    scope: () => scope,
    key: (delivery) => delivery.id,
    methods: ["POST"],
  });
}

/** A delivery that is forgotten while its sender still repeats it would run again. */
function retained(
  idempotency: Idempotency,
  options: WebhookOptions,
): Pick<WebhookOptions, "retention"> {
  const horizonMs = options.verify.retryHorizonMs;
  if (horizonMs === undefined) return {};
  durationMs(horizonMs, "verify.retryHorizonMs");
  const { retentionMs } = idempotency.policy(options);
  if (retentionMs >= horizonMs) return {};
  if (options.retention === undefined) return { retention: horizonMs };
  process.emitWarning(
    `Deliveries at "${options.scope}" are forgotten after \`retention\` (${retentionMs / HOUR_MS} h), while their sender repeats them for up to ${horizonMs / HOUR_MS} h: one that is repeated later runs again. Make \`retention\` at least as long`,
    { type: "SemelWarning", code: "option-invalid" },
  );
  return {};
}

const HOUR_MS = 3_600_000;

function assertFunction(value: unknown, option: string, what: string): void {
  if (typeof value === "function") return;
  throw new InvalidOption(`\`${option}\` must be ${what}, got ${shown(value)}`);
}
