// Deliveries as their senders make them, signed by the senders' own libraries where they have one.

import { createHmac, randomBytes } from "node:crypto";
import { Webhook } from "standardwebhooks";
import Stripe from "stripe";
import { github, standardWebhooks, stripe, type Verifier } from "../../src/webhooks/index.ts";

export interface Signed {
  body: string;
  headers: Record<string, string>;
}

export interface Sender {
  name: string;
  verifier: Verifier;
  /** A delivery as it is sent now; a repetition is signed anew. */
  deliver(id: string, content?: object, sentAt?: Date): Signed;
}

export const STRIPE_SECRET = "whsec_stripe_test";
export const GITHUB_SECRET = "It's a Secret to Everybody";
export const STANDARD_SECRET = `whsec_${randomBytes(24).toString("base64")}`;

export const stripeLibrary = new Stripe("sk_test_unused");
export const standardLibrary = new Webhook(STANDARD_SECRET);

const JSON_TYPE = { "content-type": "application/json" };

const stripeSender: Sender = {
  name: "Stripe",
  verifier: stripe(STRIPE_SECRET),
  deliver(id, content = {}, sentAt = new Date()) {
    const body = JSON.stringify({ id, object: "event", type: "charge.succeeded", ...content });
    const signature = stripeLibrary.webhooks.generateTestHeaderString({
      payload: body,
      secret: STRIPE_SECRET,
      timestamp: Math.floor(sentAt.getTime() / 1_000),
    });
    return { body, headers: { ...JSON_TYPE, "stripe-signature": signature } };
  },
};

const githubSender: Sender = {
  name: "GitHub",
  verifier: github(GITHUB_SECRET),
  deliver(id, content = {}) {
    const body = JSON.stringify({ action: "opened", ...content });
    const signature = createHmac("sha256", GITHUB_SECRET).update(body).digest("hex");
    return {
      body,
      headers: {
        ...JSON_TYPE,
        "x-hub-signature-256": `sha256=${signature}`,
        "x-github-delivery": id,
        "x-github-event": "issues",
      },
    };
  },
};

const standardSender: Sender = {
  name: "Standard Webhooks",
  verifier: standardWebhooks(standardLibrary),
  deliver(id, content = {}, sentAt = new Date()) {
    const body = JSON.stringify({ type: "contact.created", ...content });
    return {
      body,
      headers: {
        ...JSON_TYPE,
        "webhook-id": id,
        "webhook-timestamp": String(Math.floor(sentAt.getTime() / 1_000)),
        "webhook-signature": standardLibrary.sign(id, sentAt, body),
      },
    };
  },
};

export const senders: readonly Sender[] = [stripeSender, githubSender, standardSender];
export { githubSender, standardSender, stripeSender };
