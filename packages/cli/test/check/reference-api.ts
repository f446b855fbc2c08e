// A small API that passes every case, written without Semel, whose rules can be broken one by one.

import { createHash, randomUUID } from "node:crypto";
import type { IncomingMessage, RequestListener, ServerResponse } from "node:http";
import { gzipSync } from "node:zlib";

export interface Stored {
  fingerprint: string;
  status: number;
  headers: Record<string, string>;
  body: Buffer;
}

/** Its handler is at work. */
interface Running {
  fingerprint: string;
  isRunning: true;
}

export interface Asked {
  request: IncomingMessage;
  body: Buffer;
  /** Field lines of the key. */
  lines: string[];
}

export interface Refusal {
  status: number;
  title: string;
  retry: string;
  headers?: Record<string, string>;
  members?: Record<string, unknown>;
}

/** What the API does, said so that any part can be replaced by something wrong. */
export interface Rules {
  /** @returns a key, `undefined` for none, or `null` for a malformed one */
  readKey(lines: string[]): string | undefined | null;
  isRequired: boolean;
  /** Whether callers have to say who they are for a replay as well. */
  guardsReplays: boolean;
  /** Whether safe methods are answered with what is kept under their key. */
  replaysToSafe: boolean;
  scope(request: IncomingMessage): string;
  /** What a record is found by. */
  name(scope: string, key: string, fingerprint: string): string[];
  fingerprint(asked: Asked): string;
  /** Whether the key is taken before the handler runs, or when it is done. */
  claims: boolean;
  /** Whether a result is kept. */
  keeps(asked: Asked): boolean;
  forgetsOnDeparture: boolean;
  runsHalf: boolean;
  mismatch(record: Stored | undefined, asked: Asked): Refusal;
  onMismatch(record: Stored | undefined): void;
  malformed(asked: Asked): Refusal;
  conflict: Refusal;
  refuse(refusal: Refusal): { status: number; headers: Record<string, string>; body: string };
  replay(record: Stored): { headers: Record<string, string>; body: Buffer };
  encode(body: Buffer, request: IncomingMessage): { headers: Record<string, string>; body: Buffer };
  expires(): string;
  /** Whether the media type is one that the handler can stand. */
  takes(type: string): boolean;
}

const SLOW_MS = 500;
const QUICK_MS = 3;
/** An RFC 9651 String. */
const STRING = /^"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"(?:;[a-z]+=\d+)*$/;
const BARE = /^[\x21\x23-\x2b\x2d-\x7e]+$/;

export const CORRECT: Rules = {
  readKey(lines) {
    if (lines.length === 0) return undefined;
    if (lines.length > 1) return null;
    const string = STRING.exec(lines[0]!)?.[1]?.replace(/\\(["\\])/g, "$1");
    const key = string ?? (BARE.test(lines[0]!) ? lines[0] : undefined);
    return key === undefined || key === "" || key.length > 255 ? null : key;
  },
  isRequired: true,
  guardsReplays: true,
  replaysToSafe: false,
  scope: ({ headers }) => headers.authorization ?? "",
  name: (scope, key) => [scope, key],
  fingerprint: ({ request: { method, url, headers }, body }) =>
    digest([method, url, headers["content-type"], body.toString("latin1")]),
  claims: true,
  keeps: () => true,
  forgetsOnDeparture: false,
  runsHalf: false,
  mismatch: () => ({
    status: 422,
    title: "This key was used for another request",
    retry: "new-key",
  }),
  onMismatch: () => {},
  malformed: () => ({ status: 400, title: "The key is malformed", retry: "new-key" }),
  conflict: {
    status: 409,
    title: "The first request is under way",
    retry: "same-key",
    headers: { "retry-after": "1" },
  },
  refuse: ({ status, title, retry, headers, members }) => ({
    status,
    headers: {
      "content-type": "application/problem+json",
      "cache-control": "no-store",
      ...headers,
    },
    body: JSON.stringify({ title, status, retry, ...members }),
  }),
  replay({ headers, body }) {
    const { "set-cookie": _, ...kept } = headers;
    return { headers: { ...kept, "idempotent-replayed": "true" }, body };
  },
  encode: (body, { headers }) =>
    /\bgzip\b/.test(headers["accept-encoding"] ?? "")
      ? { headers: { "content-encoding": "gzip" }, body: gzipSync(body) }
      : { headers: {}, body },
  expires: () => new Date(Date.now() + 86_400_000).toUTCString(),
  takes: () => true,
};

export function digest(parts: readonly unknown[]): string {
  return createHash("sha256").update(JSON.stringify(parts)).digest("hex");
}

/** @returns a listener that serves `/charges` (with `?slow` and `?fail`) and `/count` */
export function referenceApi(broken: Partial<Rules> = {}): RequestListener {
  const rules = { ...CORRECT, ...broken };
  const records = new Map<string, Stored | Running>();
  let charges = 0;

  async function charge({ request, body }: Asked, fingerprint: string, url: URL): Promise<Stored> {
    const type = "application/json";
    const answer = (status: number, value: unknown, headers = {}) => ({
      ...{ fingerprint, status },
      headers: { "content-type": type, ...headers },
      body: Buffer.from(JSON.stringify(value)),
    });
    await new Promise((resolve) =>
      setTimeout(resolve, url.searchParams.has("slow") ? SLOW_MS : QUICK_MS),
    );
    if (url.searchParams.has("fail")) return answer(500, { error: "the bank is closed" });
    if (!rules.takes(request.headers["content-type"] ?? "")) return answer(500, {});
    if (/^application\/json/.test(request.headers["content-type"] ?? "") && !isJson(body)) {
      return answer(400, { error: "this is no JSON" });
    }
    const id = ++charges;
    const headers = {
      location: `/charges/${id}`,
      etag: `"${id}"`,
      "set-cookie": `session=${randomUUID()}`,
      "idempotency-expires": rules.expires(),
    };
    return answer(201, { charge: id, receipt: randomUUID() }, headers);
  }

  function send(
    request: IncomingMessage,
    response: ServerResponse,
    { status, headers, body }: { status: number; headers: Record<string, string>; body: Buffer },
  ): void {
    const encoded = rules.encode(body, request);
    response.writeHead(status, { ...headers, ...encoded.headers });
    response.end(encoded.body);
  }

  function refuse(response: ServerResponse, refusal: Refusal): void {
    const { status, headers, body } = rules.refuse(refusal);
    response.writeHead(status, headers);
    response.end(body);
  }

  async function operate(asked: Asked, response: ServerResponse, url: URL): Promise<void> {
    const { request } = asked;
    const key = rules.readKey(asked.lines);
    if (key === null) return refuse(response, rules.malformed(asked));
    if (key === undefined && rules.isRequired) {
      return refuse(response, { status: 400, title: "A key is required", retry: "new-key" });
    }
    const fingerprint = rules.fingerprint(asked);
    const id = digest(rules.name(rules.scope(request), key ?? randomUUID(), fingerprint));
    const record = records.get(id);
    if (record && record.fingerprint !== fingerprint) {
      const stored = "isRunning" in record ? undefined : record;
      rules.onMismatch(stored);
      return refuse(response, rules.mismatch(stored, asked));
    }
    if (record && "isRunning" in record) return refuse(response, rules.conflict);
    if (record) return send(request, response, { ...record, ...rules.replay(record) });
    if (!isAuthenticated(request)) return refuse(response, UNAUTHENTICATED);
    if (rules.claims) records.set(id, { fingerprint, isRunning: true });
    const stored = await charge(asked, fingerprint, url);
    const isLost = rules.forgetsOnDeparture && request.socket.destroyed;
    if (stored.status < 500 && rules.keeps(asked) && !isLost) records.set(id, stored);
    else records.delete(id);
    send(request, response, stored);
  }

  return (request, response) => {
    const url = new URL(request.url!, "http://localhost");
    if (url.pathname === "/count") {
      response.end(String(charges));
      return;
    }
    if (rules.guardsReplays && !isAuthenticated(request)) return refuse(response, UNAUTHENTICATED);
    const lines = request.headersDistinct["idempotency-key"] ?? [];
    if (!/^(?:POST|PATCH)$/.test(request.method!)) {
      const id = digest([rules.scope(request), rules.readKey(lines)]);
      const record = rules.replaysToSafe ? records.get(id) : undefined;
      if (record && !("isRunning" in record)) {
        return send(request, response, { ...record, ...rules.replay(record) });
      }
      response.writeHead(200, { "content-type": "application/json" });
      response.end(JSON.stringify({ charges }));
      return;
    }
    const chunks: Buffer[] = [];
    let isRun = false;
    const run = () => {
      if (isRun) return;
      isRun = true;
      void operate({ request, body: Buffer.concat(chunks), lines }, response, url);
    };
    request.on("data", (chunk) => chunks.push(chunk));
    request.on("end", run);
    if (rules.runsHalf) request.on("error", run);
    else request.on("error", () => {});
  };
}

function isJson(body: Buffer): boolean {
  try {
    JSON.parse(body.toString());
    return true;
  } catch {
    return false;
  }
}

const UNAUTHENTICATED: Refusal = { status: 401, title: "Who are you?", retry: "never" };

function isAuthenticated({ headers }: IncomingMessage): boolean {
  return /^Bearer (?:alice|bob)$/.test(headers.authorization ?? "");
}
