// Every way in which the reference API is broken, and the cases that must say so: these, and no others.

import { randomUUID } from "node:crypto";
import type { Server } from "node:http";
import { gzipSync } from "node:zlib";
import { CORRECT, digest, type Refusal, type Rules } from "./reference-api.ts";

export interface Defect {
  rules: Partial<Rules>;
  /** For what no handler gets to see. */
  server?: (server: Server) => void;
  fails: string[];
}

const READ_STRING = (line: string) => CORRECT.readKey([line]);
const { fingerprint, readKey, mismatch, refuse, replay } = CORRECT;

/** A fingerprint over another view of the body. */
function fingerprintOf(view: (body: Buffer) => unknown): Partial<Rules> {
  return {
    fingerprint: (asked) =>
      fingerprint({ ...asked, body: Buffer.from(JSON.stringify(view(asked.body))) }),
  };
}

function parsed(body: Buffer): unknown {
  try {
    return JSON.parse(body.toString());
  } catch {
    return body.toString("latin1");
  }
}

/** Takes for a key what none is. */
function taking(
  isTaken: (lines: string[]) => boolean,
  as: (lines: string[]) => string | undefined,
) {
  return {
    readKey: (lines: string[]) => (isTaken(lines) ? as(lines) : readKey(lines)),
  } satisfies Partial<Rules>;
}

function without(name: string): Partial<Rules> {
  return {
    replay: (record) => {
      const { headers, body } = replay(record);
      const { [name]: _, ...rest } = headers;
      return { headers: rest, body };
    },
  };
}

function refusing(change: (refusal: Refusal) => ReturnType<Rules["refuse"]>): Partial<Rules> {
  return { refuse: change };
}

export const DEFECTS: Record<string, Defect> = {
  "ignores keys": {
    rules: {
      readKey: (lines) => (typeof readKey(lines) === "string" ? randomUUID() : readKey(lines)),
    },
    // Whatever relies on a replay.
    fails: [
      "replays-result",
      "chunked-body",
      "concurrent-duplicates",
      "encoding-agrees",
      "escaped-string",
      "expect-continue",
      "headers-do-not-count",
      "hundred-duplicates",
      "key-whitespace",
      "large-body",
      "late-difference",
      "location-kept",
      "mismatch-keeps-original",
      "mismatch-while-running",
      "number-collapse",
      "pipelined-duplicates",
      "quoted-and-bare",
      "refuses-other-payload",
      "replay-marked",
      "same-bytes",
      "unknown-content-type",
      "vanishing-client",
    ],
  },
  "takes the key when the handler is done, not before": {
    rules: { claims: false },
    fails: [
      "concurrent-duplicates",
      "hundred-duplicates",
      "mismatch-while-running",
      "pipelined-duplicates",
      "vanishing-client",
    ],
  },
  "shares keys between callers": {
    rules: { scope: () => "" },
    fails: ["credential-isolation"],
  },
  "replays to whoever has the key": {
    rules: { guardsReplays: false, scope: () => "" },
    fails: ["credential-isolation", "unauthenticated-replay"],
  },
  "forgets the body": {
    rules: fingerprintOf(() => ""),
    fails: ["refuses-other-payload"],
  },
  "compares parsed numbers": {
    rules: fingerprintOf(parsed),
    fails: ["number-collapse"],
  },
  "compares the first kilobyte": {
    rules: fingerprintOf((body) => body.toString("latin1", 0, 1_024)),
    fails: ["late-difference"],
  },
  "drops the query": {
    rules: {
      fingerprint: (asked) =>
        fingerprint({
          ...asked,
          request: {
            ...asked.request,
            method: asked.request.method,
            headers: asked.request.headers,
            url: "/",
          } as never,
        }),
    },
    fails: ["query-counts"],
  },
  "drops the method": {
    rules: {
      fingerprint: ({ request: { url, headers }, body }) =>
        digest([url, headers["content-type"], body.toString("latin1")]),
    },
    fails: ["method-counts"],
  },
  "counts the user agent": {
    rules: {
      fingerprint: (asked) => digest([fingerprint(asked), asked.request.headers["user-agent"]]),
    },
    fails: ["headers-do-not-count"],
  },
  "counts the framing": {
    rules: {
      fingerprint: (asked) =>
        digest([fingerprint(asked), asked.request.headers["transfer-encoding"]]),
    },
    fails: ["chunked-body"],
  },
  "takes a quoted key for another one": {
    rules: {
      readKey: (lines) => (typeof readKey(lines) === "string" ? lines[0] : readKey(lines)),
    },
    fails: ["quoted-and-bare"],
  },
  "knows bare keys only": {
    rules: { readKey: (lines) => (lines[0]?.startsWith('"') ? null : readKey(lines)) },
    fails: ["accepts-string"],
  },
  "knows no escapes": {
    rules: taking(
      (lines) => lines[0]?.includes("\\") === true,
      () => undefined,
    ),
    fails: ["escaped-string"],
  },
  "takes keys in upper and lower case for one": {
    rules: { readKey: (lines) => readKey(lines)?.toLowerCase() },
    fails: ["key-case"],
  },
  "takes an empty header for no key": {
    rules: {
      ...taking(
        (lines) => lines[0] === "",
        () => "empty",
      ),
    },
    fails: ["empty-value"],
  },
  "takes an empty String": {
    rules: taking(
      (lines) => lines[0] === '""',
      () => "empty",
    ),
    fails: ["empty-string"],
  },
  "takes keys of any length": {
    rules: taking(
      (lines) => (lines[0]?.length ?? 0) > 255,
      ([line]) => line,
    ),
    fails: ["over-long-key"],
  },
  "takes the first of several lines": {
    rules: taking(
      (lines) => lines.length > 1,
      ([line]) => READ_STRING(line!) ?? undefined,
    ),
    fails: ["repeated-key", "repeated-equal-key"],
  },
  "takes equal lines for one": {
    rules: taking(
      (lines) => lines.length > 1 && new Set(lines).size === 1,
      ([line]) => READ_STRING(line!) ?? undefined,
    ),
    fails: ["repeated-equal-key"],
  },
  "takes a list for a key": {
    rules: taking(
      (lines) => /", "/.test(lines[0] ?? ""),
      ([line]) => line,
    ),
    fails: ["list-of-keys"],
  },
  "takes any bytes": {
    rules: taking(
      (lines) => /[^\x20-\x7e]/.test(lines[0] ?? ""),
      ([line]) => line,
    ),
    fails: ["non-ascii-key", "control-character"],
  },
  "takes a String that does not end": {
    rules: taking(
      (lines) => /^"[^"]+$/.test(lines[0] ?? "") && !/[^\x20-\x7e]/.test(lines[0]!),
      ([line]) => line,
    ),
    fails: ["unterminated-string"],
  },
  "takes what follows a String": {
    rules: taking(
      (lines) => /^".*"x$/.test(lines[0] ?? ""),
      ([line]) => line,
    ),
    fails: ["trailing-characters"],
  },
  "lets requests without a key run": {
    rules: { isRequired: false },
    fails: ["missing-key"],
  },
  "answers 500 to another payload": {
    rules: { mismatch: (...asked) => ({ ...mismatch(...asked), status: 500 }) },
    fails: ["refuses-other-payload", "mismatch-while-running"],
  },
  "forgets the original when another payload comes": {
    rules: {
      onMismatch: (record) => {
        if (record) record.fingerprint = "";
      },
    },
    fails: ["mismatch-keeps-original"],
  },
  "shows the first answer to another payload": {
    rules: {
      mismatch: (record, asked) => ({
        ...mismatch(record, asked),
        title: `was: ${record?.body}`,
        members: {},
      }),
    },
    fails: ["mismatch-does-not-leak"],
  },
  "repeats the key": {
    rules: {
      malformed: (asked) => ({
        ...CORRECT.malformed(asked),
        members: { key: asked.lines.join().replaceAll('"', "") },
      }),
    },
    fails: ["key-not-reflected"],
  },
  "refuses in plain text": {
    rules: refusing((refusal) => ({
      ...refuse(refusal),
      headers: { "content-type": "text/plain", "cache-control": "no-store", "retry-after": "1" },
      body: refusal.title,
    })),
    fails: ["conflict-described", "mismatch-described", "problem-details"],
  },
  "gives problems another status than the answer": {
    rules: refusing((refusal) => refuse({ ...refusal, members: { status: 200 } })),
    fails: ["problem-details"],
  },
  "does not say whether to keep the key": {
    rules: refusing((refusal) => refuse({ ...refusal, members: { retry: undefined } })),
    fails: ["retry-guidance"],
  },
  "lets refusals be cached": {
    rules: refusing((refusal) =>
      refuse({ ...refusal, headers: { ...refusal.headers, "cache-control": "max-age=60" } }),
    ),
    fails: ["refusals-not-cached"],
  },
  "does not say when to ask again": {
    rules: { conflict: { ...CORRECT.conflict, headers: {} } },
    fails: ["conflict-retry-after"],
  },
  "does not mark replays": { rules: without("idempotent-replayed"), fails: ["replay-marked"] },
  "loses the media type": { rules: without("content-type"), fails: ["content-type-kept"] },
  "loses the Location": { rules: without("location"), fails: ["location-kept"] },
  "replays cookies": {
    rules: {
      replay: (record) => ({
        headers: { ...record.headers, "idempotent-replayed": "true" },
        body: record.body,
      }),
    },
    fails: ["cookies-not-replayed"],
  },
  "writes JSON anew": {
    rules: {
      replay: (record) => ({
        ...replay(record),
        body: Buffer.from(JSON.stringify(parsed(record.body), undefined, 1)),
      }),
    },
    fails: ["same-bytes", "encoding-agrees"],
  },
  "keeps compressed bytes, and not that they are": {
    rules: {
      encode: (body, request) =>
        request.headers["accept-encoding"] === "identity"
          ? { headers: {}, body: gzipSync(body) }
          : CORRECT.encode(body, request),
    },
    fails: ["encoding-agrees"],
  },
  "announces a lifetime that is over": {
    rules: { expires: () => new Date(0).toUTCString() },
    fails: ["lifetime-announced"],
  },
  "replays to safe methods": {
    rules: { replaysToSafe: true },
    fails: ["get-unaffected", "head-unaffected"],
  },
  "takes equal requests for one, whatever their keys": {
    rules: { name: (scope, _, ofRequest) => [scope, ofRequest] },
    // Nothing is new after the first cases.
    fails: [
      "distinct-keys",
      "half-sent-body",
      "hundred-duplicates",
      "key-case",
      "late-difference",
      "method-counts",
      "mismatch-while-running",
      "number-collapse",
      "pipelined-duplicates",
      "query-counts",
      "quoted-and-bare",
      "refuses-other-payload",
      "replay-marked",
      "replays-result",
      "vanishing-client",
      "credential-isolation",
    ],
  },
  "counts whitespace around the key": {
    rules: {},
    server: (server) =>
      server.on("connection", (socket) => {
        socket.on("data", (chunk) => {
          if (!/^idempotency-key: {2}/im.test(chunk.toString("latin1"))) return;
          socket.end("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        });
      }),
    fails: ["key-whitespace"],
  },
  "breaks when a client waits for 100": {
    rules: {},
    server: (server) =>
      server.on("checkContinue", (_, response) => {
        response.writeHead(500);
        response.end();
      }),
    fails: ["expect-continue"],
  },
  "breaks on unknown media types": {
    rules: { takes: (type) => /json|text/.test(type) },
    fails: ["unknown-content-type"],
  },
  "keeps no results of large requests": {
    rules: { keeps: ({ body }) => body.length < 10_000 },
    fails: ["large-body", "late-difference"],
  },
  "forgets operations whose caller has left": {
    rules: { forgetsOnDeparture: true },
    fails: ["vanishing-client"],
  },
  "runs what has half arrived": { rules: { runsHalf: true }, fails: ["half-sent-body"] },
};
