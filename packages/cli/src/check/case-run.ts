// What a case works with: sends requests within its allowance, writes down what was exchanged, and
// sees how many effects there were.

import { createHash } from "node:crypto";
import { type Case, type Exchanged, expect, type Facts, skip, Unmet } from "./case.ts";
import { CountUnreadable, readCount } from "./effects.ts";
import {
  type Answer,
  exchange,
  type HeaderLine,
  headerOf,
  isAccepted,
  type Outgoing,
} from "./exchange.ts";
import { canonicalText } from "./payload.ts";
import { pipeline } from "./pipeline.ts";
import { isCredential, spell, type Target } from "./target.ts";

/** How a request differs from the plain operation. */
export interface Sending extends Pick<Outgoing, "framing" | "expectsContinue" | "leaves"> {
  /** The header's lines as they are written, in place of the one that spells the key. */
  keyLines?: readonly string[];
  body?: Buffer;
  url?: URL;
  method?: string;
  /** Replace headers of these names. */
  headers?: readonly HeaderLine[];
  /** @default "own" */
  as?: "own" | "other" | "nobody";
}

/** Answers, and how many effects their requests had. */
export interface Observed {
  answers: Answer[];
  /** `undefined` when nothing tells one effect from two. */
  effects: number | undefined;
}

/** Methods whose requests have no body. */
const BODILESS = new Set(["GET", "HEAD", "OPTIONS"]);
/** "Not now", in the words of HTTP. */
const NOT_NOW = new Set([409, 425, 429, 503]);
const RETRY_PAUSE_MS_MAX = 500;

/** Why a case about effects cannot be told. */
export const NO_EVIDENCE =
  "all operations get the same answer, so one effect cannot be told from two: needs --count";

function stuck({ href }: URL): string {
  return `--count ${href} no longer rises when a new operation runs; where it is a list that comes in pages, --count-pointer names its total`;
}

export class CaseRun {
  readonly target: Target;
  readonly facts: Facts;
  readonly exchanges: Exchanged[] = [];
  readonly #case: Pick<Case, "id" | "requestsMax">;
  #sent = 0;
  #keys = 0;

  constructor(target: Target, facts: Facts, case_: Pick<Case, "id" | "requestsMax">) {
    this.target = target;
    this.facts = facts;
    this.#case = case_;
  }

  get sent(): number {
    return this.#sent;
  }

  /** A fresh key, in the form of a UUID: what every API takes. The seed decides which. */
  key(): string {
    const parts = [this.target.seed, this.#case.id, this.#keys++];
    const hex = createHash("sha256").update(JSON.stringify(parts)).digest("hex");
    const groups = [hex.slice(0, 8), hex.slice(8, 12), `4${hex.slice(13, 16)}`];
    return [...groups, `a${hex.slice(17, 20)}`, hex.slice(20, 32)].join("-");
  }

  /** Sends the operation, or what `sending` makes of it. */
  async send(key: string | undefined, sending: Sending = {}): Promise<Answer> {
    this.#spend(1);
    const { target } = this;
    const { method = target.method, url = target.url } = sending;
    const body = BODILESS.has(method) ? undefined : (sending.body ?? target.body);
    const keyLines = this.#keyLines(key, sending);
    const { framing, expectsContinue, leaves } = sending;
    const answer = await exchange({
      ...{ method, url, body },
      ...(framing && { framing }),
      ...(expectsContinue && { expectsContinue }),
      ...(leaves && { leaves }),
      headers: this.#headers(keyLines, sending, body),
      timeoutMs: target.timeoutMs,
    });
    this.#note(this.#shownRequest(method, url, keyLines, body, sending), shownAnswer(answer));
    return answer;
  }

  /**
   * Sends the operation, which must run: nothing else has a result to replay.
   *
   * @throws {Unmet} when it is refused, or fails
   */
  async run(key: string, sending: Sending = {}): Promise<Answer> {
    const answer = await this.send(key, sending);
    expect(isAccepted(answer), "the operation to run");
    return answer;
  }

  /** Sends the operation several times in the same instant. */
  together(count: number, key: string, sending: Sending = {}): Promise<Answer[]> {
    return Promise.all(Array.from({ length: count }, () => this.send(key, sending)));
  }

  /** Sends the operation twice on one connection, without waiting for the first answer. */
  async pipelined(key: string): Promise<Answer[]> {
    this.#spend(2);
    const { method, url, body, timeoutMs } = this.target;
    const keyLines = this.#keyLines(key, {});
    const request = { method, headers: this.#headers(keyLines, {}, body), body };
    const answers = await pipeline(url, [request, request], timeoutMs);
    const shown = this.#shownRequest(method, url, keyLines, body, {});
    for (const answer of answers) this.#note(`${shown} (pipelined)`, shownAnswer(answer));
    return answers;
  }

  /** Sends the operation until the answer is another one than "not now". */
  async settled(key: string, triesMax: number, sending: Sending = {}): Promise<Answer> {
    let answer = await this.send(key, sending);
    for (let tries = 1; tries < triesMax && NOT_NOW.has(answer.status); tries++) {
      await pause(Math.min(50 * 2 ** tries, RETRY_PAUSE_MS_MAX));
      answer = await this.send(key, sending);
    }
    return answer;
  }

  /**
   * Counts the effects of some requests: by `--count`, otherwise by how many different answers of
   * accepted requests there are.
   */
  async observe(action: () => Promise<Answer[]>): Promise<Observed> {
    if (this.target.count) {
      const before = await readCount(this.target);
      const answers = await action();
      return { answers, effects: (await readCount(this.target)) - before };
    }
    const answers = await action();
    const accepted = answers.filter(isAccepted).map(({ body }) => canonicalText(body));
    return { answers, effects: this.facts.isDistinct ? new Set(accepted).size : undefined };
  }

  /**
   * @throws {Unmet} when there were more, or fewer
   * @throws {Skipped} when nobody can tell
   * @throws {CountUnreadable} when the counter counts no more
   */
  expectEffects(observed: Observed, wanted: number, expected: string): void {
    const { effects } = observed;
    const { count } = this.target;
    if (effects === undefined) skip(NO_EVIDENCE);
    if (effects === wanted) return;
    if (count && wanted > 0 && this.#isStuck(observed)) throw new CountUnreadable(stuck(count.url));
    const seen = `${effects} effect${effects === 1 ? "" : "s"}`;
    const by = count ? "by --count" : "by its different answers";
    throw new Unmet(`${expected}; there ${effects === 1 ? "was" : "were"} ${seen}, ${by}`);
  }

  /** As {@link expectEffects} of one; that a new operation has none at all is another case's to say. */
  expectNoSecond(observed: Observed): void {
    if (observed.effects === 0 && !this.#isStuck(observed)) return;
    this.expectEffects(observed, 1, "one effect");
  }

  /** Each operation was counted, at first, and this one has run. */
  #isStuck({ answers, effects = 0 }: Observed): boolean {
    return this.facts.isCounted && effects <= 0 && answers.some(isAccepted);
  }

  #spend(requests: number): void {
    this.#sent += requests;
    const { id, requestsMax } = this.#case;
    // The allowance is what users were told; a case that breaks it is a bug of the checker.
    if (this.#sent > requestsMax) throw new Error(`${id} sends more than ${requestsMax} requests`);
  }

  #keyLines(key: string | undefined, { keyLines }: Sending): readonly string[] {
    return keyLines ?? (key === undefined ? [] : [spell(key, this.facts.spelling)]);
  }

  #headers(keyLines: readonly string[], sending: Sending, body: Buffer | undefined): HeaderLine[] {
    const { target } = this;
    const { as = "own", headers: replacing = [] } = sending;
    const other = as === "other" && target.otherAuth ? [target.otherAuth] : [];
    const replaced = new Set([...replacing, ...other].map(([name]) => name.toLowerCase()));
    const kept = target.headers.filter(
      (line) =>
        !replaced.has(line[0].toLowerCase()) &&
        !(as === "nobody" && isCredential(target, line)) &&
        !(body === undefined && /^content-/i.test(line[0])),
    );
    const keys = keyLines.map((line): HeaderLine => [target.keyHeader, line]);
    return [...kept, ...other, ...replacing, ...keys];
  }

  #shownRequest(
    method: string,
    url: URL,
    keyLines: readonly string[],
    body: Buffer | undefined,
    sending: Sending,
  ): string {
    const keys = keyLines.map((line) => `${this.target.keyHeader}: ${shortened(line)}`);
    const headers = (sending.headers ?? []).map(([name, value]) => `${name}: ${value}`);
    const notes = [
      ...(sending.as === "other" ? ["as --other-auth"] : []),
      ...(sending.as === "nobody" ? ["without credentials"] : []),
      ...(sending.framing === "chunked" ? ["chunked"] : []),
      ...(sending.expectsContinue ? ["Expect: 100-continue"] : []),
      ...(sending.leaves ? [`client leaves ${sending.leaves}`] : []),
    ].map((note) => `(${note})`);
    const text = body === undefined ? [] : [shownBytes(body)];
    return [`${method} ${url.pathname}${url.search}`, ...keys, ...headers, ...notes, ...text].join(
      "  ",
    );
  }

  #note(sent: string, got: string): void {
    const same = this.exchanges.find((other) => other.sent === sent && other.got === got);
    if (same) same.times++;
    else this.exchanges.push({ sent, got, times: 1 });
  }
}

/** What a reader of a failure needs to see of an answer. */
const SHOWN_HEADERS =
  /^(?:content-type|location|retry-after|cache-control|.*(?:idempot|replay).*)$/;

export function shownAnswer(answer: Answer): string {
  if (answer.status === 0) return `no answer: ${answer.trouble}`;
  const headers = answer.headers
    .filter(([name]) => SHOWN_HEADERS.test(name))
    .map(([name, value]) => `${name}: ${shortened(value)}`);
  const cookies = headerOf(answer, "set-cookie") === undefined ? [] : ["set-cookie: …"];
  return [answer.status, ...headers, ...cookies, shownBytes(answer.body)].join("  ");
}

const SHOWN_CHARACTERS_MAX = 160;

/** As one line; what could move a terminal's cursor is escaped. */
function shownBytes(body: Buffer): string {
  if (body.byteLength === 0) return "(no body)";
  return shortened(body.toString("utf8", 0, 4 * SHOWN_CHARACTERS_MAX));
}

function shortened(text: string): string {
  const cut = text.length > SHOWN_CHARACTERS_MAX ? `${text.slice(0, SHOWN_CHARACTERS_MAX)}…` : text;
  return cut.replace(
    // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is replaced
    /[\x00-\x1f\x7f-\x9f]/g,
    (character) => `\\x${character.charCodeAt(0).toString(16).padStart(2, "0")}`,
  );
}

/** Whether two requests got the same answer: status and bytes. */
export function isSame(one: Answer, other: Answer): boolean {
  return one.status === other.status && one.status !== 0 && one.body.equals(other.body);
}

/** Whether two answers say the same: status and meaning. */
export function saysTheSame(one: Answer, other: Answer): boolean {
  return (
    one.status === other.status &&
    one.status !== 0 &&
    canonicalText(one.body) === canonicalText(other.body)
  );
}

export function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
