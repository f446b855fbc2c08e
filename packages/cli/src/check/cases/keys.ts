// How keys are written, and which are refused.

import { type Case, expect, info, PASS, skip, type Tier } from "../case.ts";
import { type CaseRun, saysTheSame } from "../case-run.ts";
import { isAccepted } from "../exchange.ts";
import { spell } from "../target.ts";

const FIXED_FORMAT = "keys have a fixed format here";

export const KEY_CASES: Case[] = [
  {
    id: "accepts-string",
    tier: "draft",
    title: "A key that is a String (in double quotes) is accepted",
    source: "draft-07 §2.1; RFC 9651 §3.3.3",
    requestsMax: 1,
    async run(check) {
      const answer = await check.send(undefined, { keyLines: [spell(check.key(), "quoted")] });
      expect(isAccepted(answer), "the operation to run: a String is the only syntax of a key");
      return PASS;
    },
  },
  {
    id: "escaped-string",
    tier: "draft",
    title: "A String with escaped quotes and backslashes is a key like any other",
    source: "draft-07 §2.1; RFC 9651 §3.3.3",
    requestsMax: 3,
    async run(check) {
      if (check.facts.spelling === "bare") skip("Strings are refused");
      const keyLines = [spell(`semel"check\\${check.key()}`, "quoted")];
      const observed = await check.observe(async () => [
        await check.send(undefined, { keyLines }),
        await check.send(undefined, { keyLines }),
      ]);
      const [first, again] = observed.answers;
      if (!isAccepted(first!)) {
        await assertFreeFormat(check);
        expect(false, "the operation to run, as with any other String");
      }
      expect(saysTheSame(first!, again!), "the duplicate to get the first answer");
      check.expectNoSecond(observed);
      return PASS;
    },
  },
  {
    id: "key-parameters",
    tier: "draft",
    title: "What a key with parameters means",
    source: "draft-07 §2.1; RFC 9651 §3.3",
    requestsMax: 2,
    async run(check) {
      const line = spell(check.key(), "quoted");
      const first = await check.send(undefined, { keyLines: [line] });
      const again = await check.send(undefined, { keyLines: [`${line};a=1`] });
      if (!isAccepted(again)) return info(`parameters are refused with ${again.status}`);
      return info(
        saysTheSame(first, again) ? "parameters are ignored" : "with parameters it is another key",
      );
    },
  },
  {
    id: "bare-key",
    tier: "draft",
    title: "What a key without quotes means",
    source: "draft-07 §2.1; HTTP-1",
    requestsMax: 1,
    async run(check) {
      const answer = await check.send(undefined, { keyLines: [check.key()] });
      return info(
        isAccepted(answer) ? "bare keys are accepted" : `bare keys are refused: ${answer.status}`,
      );
    },
  },
  {
    id: "quoted-and-bare",
    tier: "careful",
    title: 'A bare key and the same key in quotes are one: k ≡ "k"',
    source: "HTTP-1; RFC 9651 §3.3.3",
    requestsMax: 2,
    needs: ["evidence"],
    async run(check) {
      const key = check.key();
      const observed = await check.observe(async () => [
        await check.send(undefined, { keyLines: [spell(key, "quoted")] }),
        await check.send(undefined, { keyLines: [key] }),
      ]);
      const [quoted, bare] = observed.answers;
      if (!isAccepted(quoted!)) skip("Strings are refused");
      if (bare!.status === 400) return info("bare keys are refused");
      check.expectEffects(observed, 1, "one effect for both spellings");
      expect(saysTheSame(quoted!, bare!), "the bare key to get the answer of the quoted one");
      return PASS;
    },
  },
  {
    id: "key-whitespace",
    tier: "careful",
    title: "Whitespace around the header's value is no part of the key",
    source: "RFC 9110 §5.5",
    requestsMax: 2,
    async run(check) {
      const line = spell(check.key(), check.facts.spelling);
      const observed = await check.observe(async () => [
        await check.send(undefined, { keyLines: [line] }),
        await check.send(undefined, { keyLines: [`  ${line} \t`] }),
      ]);
      const [first, again] = observed.answers;
      expect(isAccepted(first!), "the operation to run");
      expect(saysTheSame(first!, again!), "the first answer, as without the whitespace");
      check.expectNoSecond(observed);
      return PASS;
    },
  },
  {
    id: "key-case",
    tier: "careful",
    title: "Keys that differ in upper and lower case are two keys",
    source: "RFC 9651 §3.3.3",
    requestsMax: 2,
    needs: ["evidence"],
    async run(check) {
      const key = `semel-Check-${check.key()}`;
      const observed = await check.observe(async () => [
        await check.send(key),
        await check.send(key.toUpperCase()),
      ]);
      if (!observed.answers.every(isAccepted)) skip(FIXED_FORMAT);
      check.expectEffects(observed, 2, "two operations, one for each key");
      return PASS;
    },
  },
  refused("unterminated-string", "draft", "A String without its closing quote is refused", {
    source: "RFC 9651 §4.2.5; draft-07 §5",
    lines: (key) => [`"${key}`],
  }),
  refused("trailing-characters", "draft", "A String with more behind it is refused", {
    source: "RFC 9651 §4.2; draft-07 §5",
    lines: (key) => [`"${key}"x`],
  }),
  refused("empty-value", "careful", "An empty header is refused, not taken for no key", {
    source: "HTTP-1",
    lines: () => [""],
  }),
  refused("empty-string", "careful", "An empty String is refused", {
    source: "HTTP-1",
    lines: () => ['""'],
  }),
  refused("over-long-key", "careful", "A key of 4,096 characters is refused", {
    source: "HTTP-1; draft-07 §5",
    lines: (key) => [spell(key.padEnd(4_096, "0"), "quoted")],
    // Some servers bound the whole head.
    statuses: [400, 431],
  }),
  refused("repeated-key", "careful", "Two lines with two keys are refused", {
    source: "HTTP-1; draft-07 §2.1",
    lines: (key) => [spell(key, "quoted"), spell(key.replace("-4", "-5"), "quoted")],
  }),
  refused("repeated-equal-key", "careful", "Two lines with the same key are refused", {
    source: "HTTP-1; draft-07 §2.1",
    lines: (key) => [spell(key, "quoted"), spell(key, "quoted")],
  }),
  refused("list-of-keys", "careful", "Two keys in one line are refused", {
    source: "HTTP-1; RFC 9651 §3.3",
    lines: (key) => [`${spell(key, "quoted")}, ${spell(key.replace("-4", "-5"), "quoted")}`],
  }),
  refused("non-ascii-key", "careful", "A key with characters outside of ASCII is refused", {
    source: "HTTP-1; RFC 9651 §3.3.3",
    // The bytes of UTF-8, one character each: headers are written so.
    lines: (key) => [Buffer.from(`"é${key}"`).toString("latin1")],
  }),
  refused("control-character", "careful", "A key with a tab inside is refused", {
    source: "HTTP-1; RFC 9651 §3.3.3",
    lines: (key) => [`"${key}\t${key}"`],
  }),
];

/** A key that must be answered with 400 (or another of `statuses`), and run nothing. */
function refused(
  id: string,
  tier: Tier,
  title: string,
  {
    source,
    lines,
    statuses = [400],
  }: { source: string; lines: (key: string) => string[]; statuses?: number[] },
): Case {
  return {
    ...{ id, tier, title, source },
    requestsMax: 1,
    async run(check) {
      const observed = await check.observe(async () => [
        await check.send(undefined, { keyLines: lines(check.key()) }),
      ]);
      const { status } = observed.answers[0]!;
      expect(statuses.includes(status), `${statuses.join(" or ")}, and nothing to run`);
      check.expectEffects(observed, 0, "nothing to run");
      return PASS;
    },
  };
}

/** An API that takes UUIDs only may refuse other keys, however well-formed. */
async function assertFreeFormat(check: CaseRun): Promise<void> {
  const plain = await check.send(`semel-check-${check.key()}`);
  if (!isAccepted(plain)) skip(FIXED_FORMAT);
}
