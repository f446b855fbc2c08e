// What a duplicate gets after the first request has been answered.

import { brotliDecompressSync, gunzipSync, inflateSync } from "node:zlib";
import { type Case, expect, info, PASS, skip } from "../case.ts";
import { isSame, saysTheSame } from "../case-run.ts";
import { type Answer, headerLinesOf, headerOf } from "../exchange.ts";
import { marksOf } from "./answers.ts";

/** Headers that say what the answer is about, and so belong to the result. */
const REPRESENTATION = [
  "location",
  "etag",
  "last-modified",
  "content-language",
  "content-disposition",
  "content-location",
  "link",
];

export const REPLAY_CASES: Case[] = [
  {
    id: "replays-result",
    tier: "draft",
    title: "A duplicate of a completed request gets its result, and runs nothing",
    source: "draft-07 §2.6, Retry",
    requestsMax: 2,
    async run(check) {
      const key = check.key();
      const observed = await check.observe(async () => [
        await check.run(key),
        await check.send(key),
      ]);
      const [first, again] = observed.answers;
      expect(saysTheSame(first!, again!), "the first answer again: its status and its body");
      check.expectEffects(observed, 1, "one effect");
      return PASS;
    },
  },
  {
    id: "distinct-keys",
    tier: "draft",
    title: "Equal requests under different keys are different operations",
    source: "draft-07 §2.2, §2.6, First time request",
    requestsMax: 2,
    needs: ["evidence"],
    async run(check) {
      const observed = await check.observe(async () => [
        await check.send(check.key()),
        await check.send(check.key()),
      ]);
      check.expectEffects(observed, 2, "two operations, one for each key");
      return PASS;
    },
  },
  {
    id: "same-bytes",
    tier: "careful",
    title: "However often it is repeated, the answer is the same to the byte",
    source: "HTTP-13",
    requestsMax: 5,
    async run(check) {
      const key = check.key();
      const first = await check.run(key);
      for (let times = 1; times < 5; times++) {
        const again = await check.send(key);
        expect(isSame(first, again), "the status and the very bytes of the first answer");
      }
      return PASS;
    },
  },
  {
    id: "replay-marked",
    tier: "careful",
    title: "A replay can be told from the first answer by a header",
    source: "HTTP-13",
    requestsMax: 2,
    async run(check) {
      const key = check.key();
      const marks = marksOf(await check.run(key));
      const again = marksOf(await check.send(key));
      expect(
        again.some((mark) => !marks.includes(mark)),
        "a header that marks the replay, such as Idempotent-Replayed: true",
      );
      return PASS;
    },
  },
  {
    id: "content-type-kept",
    tier: "careful",
    title: "A replay has the Content-Type of the first answer",
    source: "HTTP-13; RFC 9110 §8.3",
    requestsMax: 2,
    async run(check) {
      const key = check.key();
      const first = headerOf(await check.run(key), "content-type");
      if (first === undefined) skip("the answer has no Content-Type");
      const again = headerOf(await check.send(key), "content-type");
      expect(again === first, `Content-Type: ${first}`);
      return PASS;
    },
  },
  {
    id: "location-kept",
    tier: "careful",
    title: "A replay has the Location, ETag and other such headers of the first answer",
    source: "HTTP-13; RFC 9110 §8, §10.2.2",
    requestsMax: 2,
    async run(check) {
      const key = check.key();
      const first = await check.run(key);
      const present = REPRESENTATION.filter((name) => headerOf(first, name) !== undefined);
      if (present.length === 0) skip("the answer has none of them");
      const again = await check.send(key);
      for (const name of present) {
        const wanted = headerLinesOf(first, name).join(", ");
        expect(headerLinesOf(again, name).join(", ") === wanted, `${name}: ${wanted}`);
      }
      return PASS;
    },
  },
  {
    id: "cookies-not-replayed",
    tier: "careful",
    title: "Cookies of the first answer are not replayed",
    source: "HTTP-13; RFC 6265 §3",
    requestsMax: 2,
    async run(check) {
      const key = check.key();
      const constant = check.facts.fresh.flatMap((answer) => headerLinesOf(answer, "set-cookie"));
      const own = headerLinesOf(await check.run(key), "set-cookie").filter(
        // What every answer sets is no secret of one.
        (cookie) => !constant.includes(cookie),
      );
      if (own.length === 0) skip("the answer sets no cookie of its own");
      const again = headerLinesOf(await check.send(key), "set-cookie");
      expect(
        !again.some((cookie) => own.includes(cookie)),
        "no Set-Cookie of the first answer: it may be the session of whoever asked first",
      );
      return PASS;
    },
  },
  {
    id: "encoding-agrees",
    tier: "careful",
    title: "A replay for a client that accepts other encodings has the same content",
    source: "RFC 9110 §8.4, §12.5.3",
    requestsMax: 2,
    async run(check) {
      const key = check.key();
      const first = await check.run(key, { headers: [["Accept-Encoding", "gzip, br"]] });
      if (headerOf(first, "content-encoding") === undefined) {
        skip("the answer has no Content-Encoding");
      }
      const again = await check.send(key, { headers: [["Accept-Encoding", "identity"]] });
      const [content, replayed] = [decoded(first), decoded(again)];
      expect(
        content !== undefined && replayed !== undefined && content.equals(replayed),
        "the same content, in the encoding that its Content-Encoding names",
      );
      return PASS;
    },
  },
  {
    id: "headers-do-not-count",
    tier: "careful",
    title: "A retry may have other trace ids, dates and user agents",
    source: "HTTP-5",
    requestsMax: 2,
    async run(check) {
      const key = check.key();
      const volatile = (digit: string) => ({
        headers: [
          ["User-Agent", `semel-check/${digit}`],
          ["X-Request-Id", `semel-check-${digit}`],
          ["Traceparent", `00-${digit.repeat(32)}-${digit.repeat(16)}-01`],
        ] as const,
      });
      const observed = await check.observe(async () => [
        await check.run(key, volatile("1")),
        await check.send(key, volatile("2")),
      ]);
      const [first, again] = observed.answers;
      expect(saysTheSame(first!, again!), "the first answer: the operation is the same");
      check.expectNoSecond(observed);
      return PASS;
    },
  },
  {
    id: "lifetime-announced",
    tier: "careful",
    title: "Callers learn how long a key is remembered",
    source: "draft-07 §2.3; HTTP-13",
    requestsMax: 1,
    async run(check) {
      const expires = headerOf(await check.run(check.key()), "idempotency-expires");
      if (expires === undefined) {
        return info("no Idempotency-Expires; the draft wants the policy published");
      }
      const at = Date.parse(expires);
      expect(at > Date.now(), "Idempotency-Expires to be a date that is to come");
      return PASS;
    },
  },
];

function decoded(answer: Answer): Buffer | undefined {
  try {
    switch (headerOf(answer, "content-encoding")?.toLowerCase()) {
      case undefined:
      case "identity":
        return answer.body;
      case "gzip":
        return gunzipSync(answer.body);
      case "deflate":
        return inflateSync(answer.body);
      case "br":
        return brotliDecompressSync(answer.body);
      default:
        return undefined;
    }
  } catch {
    return undefined;
  }
}
