// Verifiers against the libraries of those who sign: what theirs accepts ours does, and nothing else.

import { createHmac } from "node:crypto";
import { Webhook } from "standardwebhooks";
import { describe, expect, test } from "vitest";
import { InvalidOption } from "../../src/errors.ts";
import {
  github,
  SignatureInvalid,
  standardWebhooks,
  stripe,
  type Verifier,
} from "../../src/webhooks/index.ts";
import {
  GITHUB_SECRET,
  githubSender,
  STANDARD_SECRET,
  STRIPE_SECRET,
  standardLibrary,
  standardSender,
  stripeLibrary,
  stripeSender,
} from "./senders.ts";

const BODY = JSON.stringify({ id: "evt_1", object: "event", text: "£10 – paid" });
const NOW_S = Math.floor(Date.now() / 1_000);

const verified = async (
  verifier: Verifier,
  body: string | Uint8Array,
  headers: Record<string, string>,
) => verifier({ body: Buffer.from(body), header: (name) => headers[name.toLowerCase()] });

/** Whether it is accepted, and its id; anything but a refused signature is an error of the test. */
async function verdict(...given: Parameters<typeof verified>): Promise<string | undefined | false> {
  try {
    return (await verified(...given)).id;
  } catch (error) {
    if (error instanceof SignatureInvalid) return false;
    throw error;
  }
}

const hmac = (secret: string, text: string) =>
  createHmac("sha256", secret).update(text).digest("hex");

describe("stripe()", () => {
  const { webhooks } = stripeLibrary;
  const header = (more: object = {}) =>
    webhooks.generateTestHeaderString({ payload: BODY, secret: STRIPE_SECRET, ...more });
  const v1 = hmac(STRIPE_SECRET, `${NOW_S}.${BODY}`);
  const old = NOW_S - 299;
  const tooOld = NOW_S - 400;
  const headers: Record<string, string> = {
    "as generated": header(),
    "a minute old": header({ timestamp: NOW_S - 60 }),
    "nearly too old": header({ timestamp: old }),
    "too old": header({ timestamp: tooOld }),
    "years old": header({ timestamp: 1_492_774_577 }),
    "of another secret": header({ secret: "whsec_other" }),
    "of another scheme": header({ scheme: "v0" }),
    "of another signature": header({ signature: "0".repeat(64) }),
    "two signatures, the second right": `t=${NOW_S},v1=${"0".repeat(64)},v1=${v1}`,
    "two signatures, the first right": `t=${NOW_S},v1=${v1},v1=${"0".repeat(64)},v0=abc`,
    "another timestamp than signed": `t=${NOW_S + 1},v1=${v1}`,
    "without timestamp": `v1=${v1}`,
    "without signature": `t=${NOW_S}`,
    "a signature cut short": `t=${NOW_S},v1=${v1.slice(0, -1)}`,
    "a signature in capitals": `t=${NOW_S},v1=${v1.toUpperCase()}`,
    "no timestamp at all": "t=,v1=",
    "a word as timestamp": `t=now,v1=${v1}`,
    empty: "",
    nonsense: "=,=,,,===",
    "two timestamps, the first signed": `t=${NOW_S},t=${NOW_S - 1},v1=${v1}`,
    "two timestamps, the last signed": `t=${NOW_S - 1},t=${NOW_S},v1=${v1}`,
    "a negative timestamp": `t=-${NOW_S},v1=${hmac(STRIPE_SECRET, `-${NOW_S}.${BODY}`)}`,
    "a timestamp with a fraction": `t=${NOW_S}.5,v1=${hmac(STRIPE_SECRET, `${NOW_S}.5.${BODY}`)}`,
    "a signature with more after it": `t=${NOW_S},v1=${v1}00`,
    "a signature that is no hexadecimal": `t=${NOW_S},v1=${"é".repeat(64)}`,
    "the scheme in capitals": `t=${NOW_S},V1=${v1}`,
    "of the body alone": `t=${NOW_S},v1=${hmac(STRIPE_SECRET, BODY)}`,
  };

  test.each(Object.entries(headers))("decides as the library does: %s", async (_, signature) => {
    let expected: string | false = false;
    try {
      expected = webhooks.constructEvent(BODY, signature, STRIPE_SECRET).id;
    } catch {
      // It throws for all that it refuses, and a bare Error for an empty timestamp.
    }
    const given = { "stripe-signature": signature };
    expect(await verdict(stripe(STRIPE_SECRET), BODY, given)).toBe(expected);
  });

  test("both decisions occur among these headers", async () => {
    const verdicts = await Promise.all(
      Object.values(headers).map((signature) =>
        verdict(stripe(STRIPE_SECRET), BODY, { "stripe-signature": signature }),
      ),
    );
    expect(verdicts.filter((id) => id === "evt_1").length).toBe(6);
  });

  test("the bytes count, not what they mean", async () => {
    const { body, headers } = stripeSender.deliver("evt_1", { amount: 1 });
    expect(await verdict(stripeSender.verifier, body, headers)).toBe("evt_1");
    expect(await verdict(stripeSender.verifier, body.replace(":1", ": 1"), headers)).toBe(false);
  });

  test("while a secret is replaced both are accepted", async () => {
    const both = stripe(["whsec_new", STRIPE_SECRET]);
    expect(await verdict(both, BODY, { "stripe-signature": header() })).toBe("evt_1");
    const other = header({ secret: "whsec_new" });
    expect(await verdict(both, BODY, { "stripe-signature": other })).toBe("evt_1");
  });

  test("`tolerance` is how old a signature may be", async () => {
    const given = { "stripe-signature": header({ timestamp: NOW_S - 400 }) };
    expect(await verdict(stripe(STRIPE_SECRET, { tolerance: "10m" }), BODY, given)).toBe("evt_1");
    expect(await verdict(stripe(STRIPE_SECRET, { tolerance: "1m" }), BODY, given)).toBe(false);
  });

  test("an event without an id, and a body that is no JSON, verify without one", async () => {
    for (const payload of ["{}", "not json", '{"id":7}', "null"]) {
      const signature = header({ payload });
      const given = { "stripe-signature": signature };
      expect(await verdict(stripe(STRIPE_SECRET), payload, given)).toBeUndefined();
    }
  });
});

describe("github()", () => {
  test("accepts GitHub's documented example", async () => {
    // https://docs.github.com/webhooks/using-webhooks/validating-webhook-deliveries
    const documented = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
    const given = { "x-hub-signature-256": documented, "x-github-delivery": "72d3162e" };
    expect(await verdict(github(GITHUB_SECRET), "Hello, World!", given)).toBe("72d3162e");
    expect(await verdict(github(GITHUB_SECRET), "Hello, World?", given)).toBe(false);
  });

  test("refuses SHA-1, a bare digest, and a missing header", async () => {
    const { body, headers } = githubSender.deliver("guid");
    const right = headers["x-hub-signature-256"]!;
    const sha1 = createHmac("sha1", GITHUB_SECRET).update(body).digest("hex");
    for (const signature of [`sha1=${sha1}`, right.slice("sha256=".length), `${right}0`, ""]) {
      expect(await verdict(github(GITHUB_SECRET), body, { "x-hub-signature-256": signature })).toBe(
        false,
      );
    }
    expect(await verdict(github(GITHUB_SECRET), body, { "x-hub-signature": `sha1=${sha1}` })).toBe(
      false,
    );
    expect(await verdict(github(["other", GITHUB_SECRET]), body, headers)).toBe("guid");
  });
});

const WRONG = Buffer.alloc(32, 7).toString("base64");

describe("standardWebhooks()", () => {
  test("accepts what the library accepts, and says the id", async () => {
    const { body, headers } = standardSender.deliver("msg_1");
    expect(await verdict(standardSender.verifier, body, headers)).toBe("msg_1");
  });

  test("refuses another id, another body, an old and a future timestamp, and missing headers", async () => {
    const { body, headers } = standardSender.deliver("msg_1");
    const at = (ms: number) => standardSender.deliver("msg_1", {}, new Date(Date.now() + ms));
    const { "webhook-id": _, ...nameless } = headers;
    const refused: [string, Record<string, string>][] = [
      [body, { ...headers, "webhook-id": "msg_2" }],
      [`${body} `, headers],
      [at(-600_000).body, at(-600_000).headers],
      [at(600_000).body, at(600_000).headers],
      [body, nameless],
      [body, {}],
    ];
    for (const given of refused) {
      expect(await verdict(standardSender.verifier, ...given)).toBe(false);
    }
  });

  test("a body that is no UTF-8 is refused, though the library would take it for another", async () => {
    const text = "{}�";
    const now = new Date();
    const headers = {
      "webhook-id": "msg_1",
      "webhook-timestamp": String(Math.floor(now.getTime() / 1_000)),
      "webhook-signature": standardLibrary.sign("msg_1", now, text),
    };
    const changed = Buffer.from([0x7b, 0x7d, 0xff]);
    expect(() => standardLibrary.verify(changed, headers, { jsonParse: false })).not.toThrow();
    expect(await verdict(standardSender.verifier, text, headers)).toBe("msg_1");
    expect(await verdict(standardSender.verifier, changed, headers)).toBe(false);
  });

  test.each<[string, (signature: string) => string]>([
    ["one signature", (right) => right],
    ["two, the second right", (right) => `v1,${WRONG} ${right}`],
    ["two, the first right", (right) => `${right} v1,${WRONG}`],
    ["one of another version before it", (right) => `v1a,${WRONG} ${right}`],
    ["the right one under another version", (right) => right.replace("v1,", "v1a,")],
    ["two wrong ones", () => `v1,${WRONG} v1,${WRONG}`],
    ["no version", (right) => right.slice("v1,".length)],
    ["the version alone", () => "v1,"],
    ["commas instead of spaces", (right) => `v1,${WRONG},${right}`],
    ["one that is cut short", (right) => right.slice(0, -4)],
    ["one that is no base64", () => "v1,%%%"],
    ["an empty header", () => ""],
    ["a word", () => "signature"],
  ])("decides as the library does: %s", async (_, header) => {
    const { body, headers } = standardSender.deliver("msg_1");
    const given = { ...headers, "webhook-signature": header(headers["webhook-signature"]!) };
    let expected: string | false = false;
    try {
      standardLibrary.verify(body, given);
      expected = "msg_1";
    } catch {
      // It refuses.
    }
    expect(await verdict(standardSender.verifier, body, given)).toBe(expected);
    const isRight = /^(one signature|two, the (first|second) right|one of another version)/.test(_);
    expect(expected).toBe(isRight ? "msg_1" : false);
  });

  test.each(["", "now", "1e3", "-1", "NaN", " ", "99999999999999999999"])(
    "the timestamp %j is refused, though it is signed",
    async (timestamp) => {
      const { body, headers } = standardSender.deliver("msg_1");
      const key = Buffer.from(STANDARD_SECRET.slice("whsec_".length), "base64");
      const signature = createHmac("sha256", key)
        .update(`msg_1.${timestamp}.${body}`)
        .digest("base64");
      const signed = { "webhook-timestamp": timestamp, "webhook-signature": `v1,${signature}` };
      expect(await verdict(standardSender.verifier, body, { ...headers, ...signed })).toBe(false);
    },
  );

  test("while a secret is replaced both are accepted", async () => {
    const other = new Webhook(`whsec_${Buffer.alloc(24, 7).toString("base64")}`);
    const both = standardWebhooks([other, new Webhook(STANDARD_SECRET)]);
    const { body, headers } = standardSender.deliver("msg_1");
    expect(await verdict(both, body, headers)).toBe("msg_1");
  });
});

test.each([
  ["an empty secret", () => stripe("")],
  ["a secret that is not there", () => github(undefined as unknown as string)],
  ["no secret at all", () => github([])],
  ["one empty secret among others", () => stripe(["whsec_1", " "])],
  ["an unknown option", () => stripe("whsec_1", { tolerence: "5m" } as object)],
  ["no library", () => standardWebhooks({} as never)],
])("%s is refused when the endpoint is made", (_, make) => {
  expect(make).toThrow(InvalidOption);
});
