// `--mode audit`: every request passes as if there were no gateway, while beside it a record is kept of
// what was answered, and it is told which requests `enforce` would have stopped (GW-6).

import { createHash, type Hash } from "node:crypto";
import type { IncomingMessage, ServerResponse } from "node:http";
import { BodyIncomplete, BodyTooLarge, type Idempotency } from "semel";
import {
  type Body,
  type Exchange,
  HttpLayer,
  type HttpOptions,
  type HttpResponse,
  type IncomingRequest,
} from "semel/http";
import { messageOf } from "../failure.ts";
import { type AccessLog, pathOf } from "./access-log.ts";
import type { ToldApart } from "./callers/callers.ts";
import { forwardPlain, type Passage, type Watching } from "./forward.ts";
import { fieldLines } from "./headers.ts";
import type { Breakage } from "./upstream.ts";

/** What `enforce` would have done with a request. */
export type Would =
  /** Let it run. */
  | "run"
  /** Answered it with the first one's answer. */
  | "replay"
  /** Refused it: the first one was still running. */
  | "refuse-in-progress"
  /** Refused it: its key stood for another request. */
  | "refuse-mismatch"
  /** Refused it: nobody knew what became of the first one. */
  | "refuse-unknown"
  /** Refused it for what it was by itself: its key, its caller, the length of its body. */
  | "refuse-request"
  /** Refused it: the store did not answer. */
  | "refuse-unrecorded";

/** What was counted. */
export type AuditSummary = Readonly<Record<Would, number>> & {
  /** Of those that would have been replayed: answered otherwise than the first one. */
  readonly differing: number;
};

const NONE = {
  ...{ run: 0, replay: 0, "refuse-in-progress": 0, "refuse-mismatch": 0, "refuse-unknown": 0 },
  ...{ "refuse-request": 0, "refuse-unrecorded": 0, differing: 0 },
};

/** What the library's answers to duplicates say of themselves. */
const BY_STATUS: Readonly<Record<string, Would>> = {
  replayed: "replay",
  "in-progress": "refuse-in-progress",
  mismatch: "refuse-mismatch",
  unknown: "refuse-unknown",
  void: "refuse-unknown",
  expired: "refuse-unknown",
};

/** What an upstream answered: all that two answers are compared by. */
interface Answered {
  status: number;
  digest: Buffer;
}

type Options = Omit<HttpOptions<IncomingMessage>, "scope"> & Pick<ToldApart, "scope">;

export class Audit {
  readonly #idempotency: Idempotency;
  readonly #log: AccessLog;
  readonly #counts: Record<keyof AuditSummary, number> = { ...NONE };

  constructor(idempotency: Idempotency, log: AccessLog) {
    this.#idempotency = idempotency;
    this.#log = log;
  }

  get summary(): AuditSummary {
    return { ...this.#counts };
  }

  /** Says in the log what was counted. */
  tell(): void {
    const { run, replay, differing, ...refused } = this.#counts;
    const stopped = replay + Object.values(refused).reduce((sum, count) => sum + count);
    this.#log.note(
      "audit-summary",
      `audit: of ${run + stopped} operations ${stopped} would have been stopped: ${replay} replayed, ${differing} of them with another answer than they got; ${stopped - replay} refused`,
      this.summary,
    );
  }

  /** Makes the handler of a route. */
  watching(options: Options, find: ToldApart["find"], passage: Passage) {
    const layer = new HttpLayer(this.#idempotency, { ...options, scope: apart(options.scope) });
    return async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
      const sent = new SentBody(layer.policy.bodyBytesMax);
      const answered = new AnsweredBody();
      const judged = judge(layer, request, find, sent);
      const broken = await forwardPlain(request, response, passage, { sent, answered });
      try {
        await this.#compare(request, await judged, answered, broken);
      } catch (error) {
        // The request has been answered, and is none of the audit's business any more.
        this.#log.note("audit-failed", `audit: not recorded: ${messageOf(error)}`, {
          reason: messageOf(error),
        });
      }
    };
  }

  async #compare(
    request: IncomingMessage,
    judgement: Judgement,
    body: AnsweredBody,
    broken: Breakage | undefined,
  ): Promise<void> {
    const answer = broken ? undefined : body.answered();
    if ("exchange" in judgement) {
      this.#counts.run++;
      await record(judgement.exchange, answer, broken);
      return;
    }
    const { would, code, first } = judgement;
    this.#counts[would]++;
    const differs = first && answer && !isSame(first, answer);
    if (differs) this.#counts.differing++;
    const [method, path] = [request.method ?? "GET", pathOf(request.url ?? "/")];
    this.#log.note("audit", `audit: ${method} ${path} would have been stopped: ${would}`, {
      ...{ would, method, path },
      ...(code && { code }),
      ...(answer && { status: answer.status }),
      ...(first && { firstStatus: first.status, differs: differs ?? false }),
      ...(broken && { broken: broken.message }),
    });
  }
}

type Judgement =
  | { exchange: Exchange }
  | { would: Exclude<Would, "run">; code?: string; first?: Answered };

/** What `enforce` would do with a request, as soon as it is there as a whole. It never rejects. */
async function judge(
  layer: HttpLayer<IncomingMessage>,
  request: IncomingMessage,
  find: ToldApart["find"],
  sent: SentBody,
): Promise<Judgement> {
  try {
    if (await find?.(request)) return { would: "refuse-request", code: "scope-missing" };
    const decision = await layer.decide(incoming(request, sent));
    if (decision.kind === "run") return { exchange: decision.exchange };
    if (decision.kind === "respond") return judgementOf(decision.response);
    return { would: "refuse-request" };
  } catch {
    return { would: "refuse-unrecorded" };
  }
}

function judgementOf({ status, headers, body }: HttpResponse): Judgement {
  const field = headers.find(([name]) => name === "idempotency-status")?.[1] ?? "";
  const would = BY_STATUS[field] as Exclude<Would, "run"> | undefined;
  if (would === "replay") return { would, first: { status, digest: Buffer.from(body) } };
  const { code } = JSON.parse(Buffer.from(body).toString()) as { code: string };
  return { would: would ?? (status >= 500 ? "refuse-unrecorded" : "refuse-request"), code };
}

/** Ends the operation as `enforce` would, with a digest in the place of the body. */
async function record(
  exchange: Exchange,
  answer: Answered | undefined,
  broken: Breakage | undefined,
): Promise<void> {
  if (answer) {
    const { status, digest } = answer;
    await exchange.respond({ status, headers: [], body: digest }, true);
    return;
  }
  if (broken?.isReached === false) exchange.notApplied();
  await exchange.broken(`upstream-broken: ${broken?.message ?? "the answer was not whole"}`);
}

function isSame(one: Answered, other: Answered): boolean {
  return one.status === other.status && one.digest.equals(other.digest);
}

/** Records of an audit are under scopes of their own: nothing of them is ever replayed. */
function apart(scope: ToldApart["scope"]): ToldApart["scope"] {
  if (scope === "shared") return () => "audit/";
  return async (request) => {
    const named = await scope(request);
    return named ? `audit/${named}` : named;
  };
}

function incoming(request: IncomingMessage, sent: SentBody): IncomingRequest<IncomingMessage> {
  return {
    request,
    method: request.method ?? "GET",
    target: request.url ?? "/",
    headerLines: (name) => fieldLines(request.rawHeaders, name),
    body: () => sent.body,
  };
}

/** A request's body, collected as it passes. */
class SentBody implements NonNullable<Watching["sent"]> {
  readonly body: Promise<Body>;
  readonly #bytesMax: number;
  #chunks: Buffer[] = [];
  #length = 0;
  #end: (body: Body) => void = () => {};
  #fail: (error: Error) => void = () => {};

  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax;
    this.body = new Promise((resolve, reject) => {
      this.#end = resolve;
      this.#fail = reject;
    });
    // A request that is refused for its key has no use for its body.
    this.body.catch(() => {});
  }

  chunk(bytes: Buffer): void {
    this.#length += bytes.length;
    if (this.#length <= this.#bytesMax) this.#chunks.push(bytes);
    else {
      this.#chunks = [];
      this.#fail(new BodyTooLarge(this.#bytesMax));
    }
  }

  whole(): void {
    this.#end({ bytes: Buffer.concat(this.#chunks) });
  }

  broken(): void {
    this.#fail(new BodyIncomplete());
  }
}

/** An answer's status and the digest of its body. */
class AnsweredBody implements NonNullable<Watching["answered"]> {
  readonly #hash: Hash = createHash("sha256");
  #status: number | undefined;

  head({ statusCode }: IncomingMessage): void {
    this.#status = statusCode;
  }

  chunk(bytes: Buffer): void {
    this.#hash.update(bytes);
  }

  answered(): Answered | undefined {
    if (this.#status === undefined) return undefined;
    return { status: this.#status, digest: this.#hash.digest() };
  }
}
