// What makes two HTTP requests the same request: SHA-256 over length-framed method, target, media
// type and body (HTTP-5).

import { hash } from "node:crypto";
import { InvalidOption } from "../errors.ts";
import {
  canonicalForm,
  type FingerprintSelection,
  fingerprinter,
  labelled,
} from "../fingerprint.ts";

/** A request body: its bytes, or what a body parser left of it. */
export type Body = { bytes: Uint8Array } | { parsed: unknown };

export interface RequestLine {
  method: string;
  /** Path and query, as the client sent them. */
  target: string;
  /** The `Content-Type` field. */
  contentType: string | undefined;
}

export type BodyFingerprinter = (request: RequestLine, body: Body) => string;

/** Version of the framing below. */
const LABEL = "h1";
const JSON_TYPE = /^application\/(?:[\w.+-]+\+)?json$/;
/** Strings, which stay as they are, and numbers. */
const STRING_OR_NUMBER = /"[^"\\]*(?:\\.[^"\\]*)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g;

/** Makes the fingerprint function that an option asks for. */
export function bodyFingerprinter(
  option: "bytes" | "json" | FingerprintSelection,
): BodyFingerprinter {
  // One label for whatever a body turns out to be: only fingerprints of one label are told apart.
  if (option === "bytes")
    return (request, body) => framed(request, body, () => ["b", asSent(body)]);
  if (option === "json") {
    return (request, body) => framed(request, body, (_, type) => ["j", asJson(body, type)]);
  }
  if (typeof option === "string") {
    throw new InvalidOption(
      `\`fingerprint\` must be "bytes", "json", { include: […] }, { exclude: […] } or a function, got "${option}"`,
    );
  }
  const select = fingerprinter(option as FingerprintSelection<never>);
  // A user's function gets the numbers that it knows, not what they were written like.
  const parseJson = typeof option === "function" ? JSON.parse : parseJsonAsWritten;
  return (request, body) =>
    framed(request, body, (body, mediaType) => {
      const digest = select(
        "parsed" in body ? body.parsed : selectable(body.bytes, mediaType, parseJson),
      );
      const colon = digest.indexOf(":");
      return [`s-${digest.slice(0, colon)}`, digest.slice(colon + 1)];
    });
}

type Digest = readonly [label: string, digest: string];

function framed(
  request: RequestLine,
  body: Body,
  digest: (body: Body, mediaType: string) => Digest,
): string {
  const mediaType = (request.contentType?.split(";", 1)[0] ?? "").trim().toLowerCase();
  const [label, content] = digest(body, mediaType);
  const { method, target } = request;
  const head = `${method.length}:${method}${target.length}:${target}${mediaType.length}:${mediaType}`;
  return labelled(`${LABEL}${label}`, `${head}${content}`);
}

/** What a parser left of a body never looks like bytes, nor canonical JSON like its source. */
function asSent(body: Body): string {
  // The bytes are gone: a parser before us kept only this.
  const sent = "bytes" in body ? body.bytes : body.parsed;
  if (sent instanceof Uint8Array) return `b${hash("sha256", sent, "base64url")}`;
  return `p${hash("sha256", canonicalForm(sent), "base64url")}`;
}

function asJson(body: Body, mediaType: string): string {
  if ("bytes" in body && JSON_TYPE.test(mediaType)) {
    try {
      const text = new TextDecoder("utf-8", { fatal: true }).decode(body.bytes);
      return `j${hash("sha256", canonicalForm(parseJsonAsWritten(text)), "base64url")}`;
    } catch {
      // Not JSON after all: the handler will say so; the bytes tell requests apart.
    }
  }
  return asSent(body);
}

function selectable(
  bytes: Uint8Array,
  mediaType: string,
  parseJson: (text: string) => unknown,
): unknown {
  const text = new TextDecoder().decode(bytes);
  if (JSON_TYPE.test(mediaType)) {
    try {
      return parseJson(text);
    } catch {
      // As in `asJson`.
    }
  }
  if (mediaType === "application/x-www-form-urlencoded") {
    const fields: Record<string, string[]> = Object.create(null);
    const form = new URLSearchParams(text);
    for (const name of form.keys()) fields[name] = form.getAll(name);
    return fields;
  }
  return bytes;
}

/**
 * Parses JSON and keeps the numbers that a double cannot hold as they were written:
 * `9007199254740993` and `9007199254740992` stay different.
 *
 * @throws {SyntaxError} when the text is not JSON
 */
export function parseJsonAsWritten(text: string): unknown {
  // First as it is: over text that is no JSON, such as one of open quotes, the tokens below would
  // be looked for again and again, for minutes.
  JSON.parse(text);
  return JSON.parse(
    text.replace(STRING_OR_NUMBER, (token) => {
      if (token.startsWith('"')) return taggedLike(token) ? `"$${token.slice(1)}` : token;
      return String(Number(token)) === token ? token : `{"$number":"${token}"}`;
    }),
  );
}

/** A string of the client's own that looks like the tag of a number gets one `$` more. */
function taggedLike(token: string): boolean {
  return DOLLAR.test(token) && /^\$+number$/.test(JSON.parse(token));
}

/** A string that begins with `$`, as it is or escaped. */
const DOLLAR = /^"(?:\$|\\u0024)/;
