// Asks the upstream what became of an operation whose outcome nobody knows (GW-4): a GET, whose answer
// says that it was applied, that it was not, or neither.

import { AsyncLocalStorage } from "node:async_hooks";
import type { IncomingMessage } from "node:http";
import type { Operation, ProbeVerdict } from "semel";
import type { HttpResponse } from "semel/http";
import { fieldLines } from "./headers.ts";
import type { PathParts } from "./path.ts";
import {
  filled,
  inHeader,
  inTarget,
  namesKey,
  type Template,
  type TemplateFacts,
} from "./template.ts";
import type { Upstream, UpstreamRequest } from "./upstream.ts";

export interface ProbeOptions {
  /** The target of the GET. */
  target: Template;
  headers: readonly (readonly [name: string, value: Template])[];
  timeoutMs: number;
  /** Statuses that say that it was applied. */
  applied: readonly number[];
  /** Statuses that say that it was not. */
  notApplied: readonly number[];
  /** Where in the JSON of an answer the operation is, as the parts of a JSON Pointer. */
  find: readonly string[] | undefined;
  /** The status that callers get. */
  status: number | undefined;
}

type Verdict = ProbeVerdict<Partial<HttpResponse>>;
type Probe = (operation: Operation) => Promise<Verdict>;

/** The request that is being admitted, for the probe of the attempt before it. */
const admitted = new AsyncLocalStorage<{ request: IncomingMessage; parts: PathParts }>();

/** Lets a probe that is run in `work` know the request. */
export function withProbing<T>(request: IncomingMessage, parts: PathParts, work: () => T): T {
  return admitted.run({ request, parts }, work);
}

/** Headers of the probe's answer that callers get. */
const RESULT_HEADERS = ["content-type", "content-encoding", "content-language", "location", "etag"];
const UNKNOWN: Verdict = { outcome: "unknown" };

/**
 * Makes the probe of a route. The service may have kept the key in any of its spellings: it was not
 * applied only when it is under none of them.
 *
 * @param bytesMax of an answer; a larger one tells nothing
 * @throws never: what fails is not known
 */
export function probeOf(options: ProbeOptions, upstream: Upstream, bytesMax: number): Probe {
  const hasKey = [options.target, ...options.headers.map(([, value]) => value)].some(namesKey);
  return async ({ key, scope }) => {
    const context = admitted.getStore();
    if (context === undefined) return UNKNOWN;
    let verdict: Verdict = { outcome: "not-applied" };
    for (const spelling of hasKey ? spellingsOf(key, context.request) : [key]) {
      const facts = { key: spelling, scope, ...context };
      const head = headOf(options, facts, upstream.origin.host);
      const told = head ? await asked(options, upstream, head, bytesMax) : UNKNOWN;
      if (told.outcome === "applied") return told;
      if (told.outcome === "unknown") verdict = told;
    }
    return verdict;
  };
}

/** As a key is named, as an RFC 9651 String, and as this request has it, which may be with parameters. */
function spellingsOf(key: string, { rawHeaders }: IncomingMessage): ReadonlySet<string> {
  const quoted = `"${key.replace(/["\\]/g, "\\$&")}"`;
  const sent = fieldLines(rawHeaders, "idempotency-key").map((line) => line.trim());
  return new Set([key, quoted, ...sent]);
}

async function asked(
  options: ProbeOptions,
  upstream: Upstream,
  head: UpstreamRequest,
  bytesMax: number,
): Promise<Verdict> {
  const call = upstream.open(head, { connection: "kept", silenceMs: options.timeoutMs });
  const late = setTimeout(() => call.request.destroy(), options.timeoutMs);
  call.request.end();
  try {
    const answer = await call.answer;
    return verdictOf(options, answer, await bodyOf(answer, bytesMax));
  } finally {
    clearTimeout(late);
    call.request.destroy();
  }
}

function headOf(
  options: ProbeOptions,
  facts: TemplateFacts,
  host: string,
): UpstreamRequest | undefined {
  const path = filled(options.target, facts, inTarget);
  const headers = ["Host", host, "Accept-Encoding", "identity", "Via", "1.1 semel"];
  for (const [name, template] of options.headers) {
    const value = filled(template, facts, inHeader);
    if (value === undefined) return undefined;
    headers.push(name, value);
  }
  return path === undefined ? undefined : { method: "GET", path, headers };
}

async function bodyOf(answer: IncomingMessage, bytesMax: number): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let length = 0;
  for await (const chunk of answer as AsyncIterable<Buffer>) {
    length += chunk.length;
    if (length > bytesMax) throw new Error(`the probe's answer is larger than ${bytesMax} bytes`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

function verdictOf(options: ProbeOptions, answer: IncomingMessage, body: Buffer): Verdict {
  const { statusCode = 0, rawHeaders } = answer;
  if (options.notApplied.includes(statusCode)) return { outcome: "not-applied" };
  if (!options.applied.includes(statusCode)) return UNKNOWN;
  const status = options.status ?? statusCode;
  if (options.find === undefined) {
    const headers = RESULT_HEADERS.flatMap((name) =>
      fieldLines(rawHeaders, name).map((value) => [name, value] as const),
    );
    return { outcome: "applied", value: { status, headers, body } };
  }
  const found = valueAt(JSON.parse(body.toString("utf8")), options.find);
  if (found === undefined || found === null) return { outcome: "not-applied" };
  const headers = [["content-type", "application/json"]] as const;
  return {
    outcome: "applied",
    value: { status, headers, body: Buffer.from(JSON.stringify(found)) },
  };
}

function valueAt(document: unknown, parts: readonly string[]): unknown {
  let value = document;
  for (const part of parts) {
    if (typeof value !== "object" || value === null || !Object.hasOwn(value, part))
      return undefined;
    value = (value as Record<string, unknown>)[part];
  }
  return value;
}

/** Reads a JSON Pointer (RFC 6901). @returns `undefined` when it is none */
export function parsePointer(written: string): string[] | undefined {
  if (written !== "" && !written.startsWith("/")) return undefined;
  if (/~(?![01])/.test(written)) return undefined;
  const parts = written.split("/").slice(1);
  return parts.map((part) => part.replaceAll("~1", "/").replaceAll("~0", "~"));
}
