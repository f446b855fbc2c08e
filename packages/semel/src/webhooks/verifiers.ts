// How senders sign: Stripe, GitHub, and Standard Webhooks through its own library. Signatures are
// compared in constant time, over the exact bytes that came.

import { isUtf8 } from "node:buffer";
import { createHmac, timingSafeEqual } from "node:crypto";
import { type Duration, durationMs } from "../duration.ts";
import { InvalidOption } from "../errors.ts";
import { assertKnownOptions, assertMethods } from "../options.ts";
import { jsonOf, SignatureInvalid, type UnverifiedDelivery, type Verifier } from "./delivery.ts";

const HOUR_MS = 3_600_000;

/** Options of {@link stripe}. */
export interface StripeOptions {
  /** How old a signature may be. @default "5m" */
  tolerance?: Duration | undefined;
}

/**
 * Verifies Stripe's webhooks: `Stripe-Signature` with `t` and one or more `v1`, HMAC-SHA256 over
 * `t.body` (https://docs.stripe.com/webhooks/signature). The id is the event's own, `evt_…`, which
 * the signature covers. Stripe repeats a delivery for up to three days
 * (https://docs.stripe.com/webhooks/process-undelivered-events).
 *
 * @param secret the endpoint's signing secret, `whsec_…`; several while one replaces another
 * @throws {InvalidOption} when a secret is empty, or an option is wrong
 * @example webhook(idempotency, { scope: "stripe", verify: stripe(process.env.STRIPE_SECRET!) });
 */
export function stripe(secret: string | readonly string[], options: StripeOptions = {}): Verifier {
  assertKnownOptions(options, ["tolerance"], "stripe()");
  const secrets = secretsOf(secret, "stripe()");
  const toleranceMs = durationMs(options.tolerance ?? "5m", "tolerance", { minMs: 1_000 });
  const verify = (delivery: UnverifiedDelivery) => {
    const { timestamp, signatures } = stripeSignature(required(delivery, "stripe-signature"));
    const signed = [`${timestamp}.`, delivery.body];
    assertSigned(secrets, signed, signatures);
    // Stripe's own library looks at the age alone: a signature cannot be made before its time.
    if (Math.floor(Date.now() / 1_000) - Number(timestamp) > toleranceMs / 1_000) {
      throw new SignatureInvalid(
        "The signature is older than `tolerance`: the delivery is a repetition by somebody else, or this machine's clock is wrong",
      );
    }
    const event = jsonOf(delivery.body) as { id?: unknown } | null | undefined;
    return { id: typeof event?.id === "string" ? event.id : undefined };
  };
  return Object.assign(verify, { retryHorizonMs: 72 * HOUR_MS });
}

function stripeSignature(header: string): { timestamp: string; signatures: string[] } {
  let timestamp: string | undefined;
  const signatures: string[] = [];
  for (const item of header.split(",")) {
    const [name, value = ""] = item.trim().split("=", 2);
    if (name === "t") timestamp = value;
    if (name === "v1") signatures.push(value);
  }
  if (timestamp !== undefined && /^\d{1,15}$/.test(timestamp)) return { timestamp, signatures };
  throw new SignatureInvalid("`Stripe-Signature` has no timestamp `t`");
}

/**
 * Verifies GitHub's webhooks: `X-Hub-Signature-256`, HMAC-SHA256 over the body
 * (https://docs.github.com/webhooks/using-webhooks/validating-webhook-deliveries). The id is
 * `X-GitHub-Delivery`, which a redelivery repeats, and which the signature does not cover: whoever
 * has seen a delivery can send it again under another id. GitHub repeats nothing by itself.
 *
 * @param secret the webhook's secret; several while one replaces another
 * @throws {InvalidOption} when a secret is empty
 * @example webhook(idempotency, { scope: "github", verify: github(process.env.GITHUB_SECRET!) });
 */
export function github(secret: string | readonly string[]): Verifier {
  const secrets = secretsOf(secret, "github()");
  return (delivery) => {
    const [scheme, signature = ""] = required(delivery, "x-hub-signature-256").split("=", 2);
    if (scheme !== "sha256") throw new SignatureInvalid("The signature's scheme is not `sha256`");
    assertSigned(secrets, [delivery.body], [signature]);
    return { id: delivery.header("x-github-delivery") };
  };
}

/** A `Webhook` of the package `standardwebhooks`, or of `svix`, as far as it is needed. */
export interface StandardWebhook {
  verify(
    payload: Buffer,
    headers: Record<string, string>,
    options?: { jsonParse?: boolean },
  ): unknown;
}

/**
 * Verifies webhooks that keep to Standard Webhooks, through the specification's own library. The id
 * is `webhook-id`, which the signature covers. The example schedule of the specification retries for
 * 75 hours and a half
 * (https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md).
 *
 * @param library `new Webhook(secret)` of the package `standardwebhooks`; several while one secret
 * replaces another
 * @throws {InvalidOption} when it is none
 * @example webhook(idempotency, { scope: "acme", verify: standardWebhooks(new Webhook(secret)) });
 */
export function standardWebhooks(library: StandardWebhook | readonly StandardWebhook[]): Verifier {
  const libraries = [library].flat() as StandardWebhook[];
  if (libraries.length === 0) throw new InvalidOption("standardWebhooks() needs a `Webhook`");
  for (const one of libraries) assertMethods(one, "webhook", ["verify"]);
  const verify = (delivery: UnverifiedDelivery) => {
    // The library signs text: bytes that are none would all look like one character.
    if (!isUtf8(delivery.body)) throw new SignatureInvalid("The body is not UTF-8");
    const headers: Record<string, string> = {};
    for (const name of STANDARD_HEADERS) headers[name] = required(delivery, name);
    verifyByAny(libraries, Buffer.from(delivery.body), headers);
    return { id: headers["webhook-id"] };
  };
  return Object.assign(verify, { retryHorizonMs: 76 * HOUR_MS });
}

const STANDARD_HEADERS = ["webhook-id", "webhook-timestamp", "webhook-signature"];

function verifyByAny(
  libraries: readonly StandardWebhook[],
  body: Buffer,
  headers: Record<string, string>,
): void {
  let refusal: unknown;
  for (const library of libraries) {
    try {
      library.verify(body, headers, { jsonParse: false });
      return;
    } catch (error) {
      refusal = error;
    }
  }
  throw new SignatureInvalid("Standard Webhooks refused the delivery", { cause: refusal });
}

function secretsOf(secret: string | readonly string[], where: string): readonly string[] {
  const secrets = [secret].flat();
  const isSecret = (one: unknown) => typeof one === "string" && one.trim() !== "";
  if (secrets.length > 0 && secrets.every(isSecret)) return secrets;
  throw new InvalidOption(
    `${where} needs the webhook's secret, a string that is not empty; is the environment variable set that should hold it?`,
  );
}

function required(delivery: UnverifiedDelivery, name: string): string {
  const value = delivery.header(name);
  if (value !== undefined && value !== "") return value;
  throw new SignatureInvalid(`The header \`${name}\` is missing`);
}

/** @throws {SignatureInvalid} unless one of the signatures, in hexadecimal, is of one of the secrets */
function assertSigned(
  secrets: readonly string[],
  signed: readonly (string | Uint8Array)[],
  signatures: readonly string[],
): void {
  // All are looked at, whichever fits: time tells nothing.
  let fits = false;
  for (const secret of secrets) {
    const hmac = createHmac("sha256", secret);
    for (const part of signed) hmac.update(part);
    const expected = Buffer.from(hmac.digest("hex"));
    for (const signature of signatures.slice(0, SIGNATURES_MAX)) {
      const given = Buffer.from(signature);
      if (given.length === expected.length && timingSafeEqual(given, expected)) fits = true;
    }
  }
  if (fits) return;
  throw new SignatureInvalid(
    "No signature fits: the secret is another endpoint's, the body was changed on its way, or somebody else sent it",
  );
}

/** More than any sender puts into a header. */
const SIGNATURES_MAX = 32;
