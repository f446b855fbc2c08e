// The routes that every framework under test serves, and what they answer. A harness maps each to
// the framework's own way of saying it.

import { gzipSync } from "node:zlib";

/** Routes whose answer is always the same: each is answered once and then replayed. */
export const ANSWERS = {
  /** `application/json`. */
  json: { status: 200, body: '{"route":"json","text":"ü✓"}', type: "application/json" },
  /** The JSON value `0`: falsy, and easily taken for no body. */
  number: { status: 200, body: "0", type: "application/json" },
  text: { status: 200, body: "héllo wörld", type: "text/plain" },
  /** Three writes, then an end without a chunk. */
  chunks: { status: 200, body: "onetwothree", type: "text/plain" },
  /** Two writes, then an end with the last chunk. */
  "chunks-and-end": { status: 200, body: "onetwothree", type: "text/plain" },
  created: { status: 201, body: '{"id":7}', type: "application/json", location: "/things/7" },
  "no-content": { status: 204, body: "" },
  found: { status: 302, location: "/elsewhere" },
  "see-other": { status: 303, location: "/things/7" },
  temporary: { status: 307, location: "https://example.com/a?b=c" },
  /** 200 with an empty body. */
  empty: { status: 200, body: "" },
  /** Nothing is set: the response is just ended. */
  bare: { status: 200, body: "" },
  /** Compressed by the handler itself. */
  gzip: {
    status: 200,
    body: gzipSync('{"compressed":true}'),
    type: "application/json",
    encoding: "gzip",
  },
  /** Written in two chunks under a declared `Content-Length`. */
  declared: { status: 200, body: "twelve bytes", type: "text/plain" },
} as const satisfies Record<string, Answer>;

export interface Answer {
  status: number;
  /** Absent: the framework's own. */
  body?: string | Uint8Array;
  /** Media type, without parameters. */
  type?: string;
  location?: string;
  encoding?: string;
}

export type AnswerRoute = keyof typeof ANSWERS;

export const ANSWER_ROUTES = Object.keys(ANSWERS) as AnswerRoute[];

/** Routes that do more than answer. */
export type ActiveRoute =
  /** All 256 bytes 16 times over, as `settings.contentType`. */
  | "binary"
  /** `settings.bytes` bytes in one piece. */
  | "large"
  /** `settings.bytes` bytes in chunks. */
  | "large-stream"
  /** The stage's file, piped. */
  | "pipe"
  /** The stage's file through the framework's or Node's pipeline. */
  | "pipeline"
  /** The stage's file with its length declared. */
  | "file"
  /** `{"run":n}` with `settings.status`. */
  | "status"
  /** The text {@link GIVEN} with `settings.status`, `settings.reason` and `settings.headers`. */
  | "given"
  /** `{"run":n}` after the gate `slow`. */
  | "slow"
  /** As `slow`, having destroyed its connection first. */
  | "destroys-connection"
  /** 103 with a link, and then the text `after hints`. */
  | "early-hints"
  /** Answers at once, but in a first attempt when its signal has aborted. */
  | "heeds-signal"
  /** {@link DRIP}, the gate `drip` between its halves; the three ways of writing a stream. */
  | "drip"
  | "drip-pipe"
  | "drip-pipeline"
  /** The gate `drip`, and then {@link DRIP} at once. */
  | "late-pipe"
  /** As `drip`, with a declared `Content-Length`. */
  | "drip-declared"
  /** Everything of {@link DRIP} at once, under a declared `Content-Length`; the end after the gate. */
  | "declared-late-end"
  /** Server-sent events: one, the gate `events`, another. */
  | "events"
  /** Two cookies, one credential header, and headers on and off the allow-list. */
  | "headers"
  | "throws"
  | "rejects"
  | "throws-after-answer"
  /** Ends its answer `whole`, and then writes and ends another one. */
  | "ends-twice"
  | "throws-midstream"
  /** `NotApplied` is thrown. */
  | "not-applied"
  /** Answers 200, having said `notApplied()`. */
  | "declares-not-applied"
  /** Answers 200, having said `hold("unsure")`. */
  | "declares-hold"
  /** Answers 200, having said `unknown("unsure")`. */
  | "declares-unknown"
  /** Answers with key, scope and attempt of its operation. */
  | "operation"
  /** Answers with the bytes of its request's body. */
  | "echo"
  /** Answers with what the framework's parser made of the body, as JSON. */
  | "parsed"
  /** Changes what the parser made of the body, then answers `{"run":n}`. */
  | "edits"
  | "trailers"
  /** Answers with the trailers that came behind its request's body, as JSON. */
  | "received-trailers";

export type Route = AnswerRoute | ActiveRoute;

/** The text of `given`; a status without a body has none. */
export const GIVEN = "given";

/** All 256 bytes, 16 times over. */
export const EVERY_BYTE = Uint8Array.from({ length: 4096 }, (_, index) => index % 256);

export const DRIP = ["first half, ", "second half"] as const;

export const EVENTS = ["data: one\n\n", "data: two\n\n"] as const;

/** A body that can be told from its neighbours at every position. */
export function patterned(bytes: number): Buffer {
  const body = Buffer.alloc(bytes);
  for (let i = 0; i < bytes; i++) body[i] = (i * 7 + (i >> 8)) & 0xff;
  return body;
}

/** Headers of the route `headers`: those that a replay has, those that only `"*"` keeps, the rest. */
export const SENT_HEADERS = {
  stored: {
    "content-language": "de",
    etag: '"v1"',
    "cache-control": "private, max-age=60",
    "content-disposition": 'attachment; filename="a b.txt"',
  },
  optional: { "x-request-cost": "17", "x-ratelimit-remaining": "3" },
  never: { "www-authenticate": 'Basic realm="x"', "access-control-allow-origin": "*" },
  cookies: ["session=secret; HttpOnly", "theme=dark"],
} as const;
