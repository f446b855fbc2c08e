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
  if (option === "bytes") return (request, body) => framed(request, body, bytesDigest);
  if (option === "json") return (request, body) => framed(request, body, jsonDigest);
  if (typeof option === "string") {
    throw new InvalidOption(
      `\`fingerprint\` must be "bytes", "json", { include: […] }, { exclude: […] } or a function, got "${option}"`,
    );
  }
  const select = fingerprinter(option as FingerprintSelection<never>);
  return (request, body) =>
    framed(request, body, (body, mediaType) => {
      const digest = select("parsed" in body ? body.parsed : selectable(body.bytes, mediaType));
      const colon = digest.indexOf(":");
      return [`s-${digest.slice(0, colon)}`, digest.slice(colon + 1)];
    });
}

type Digest = readonly [label: string, digest: string | Uint8Array];

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

function bytesDigest(body: Body): Digest {
  if ("bytes" in body) return ["b", hash("sha256", body.bytes, "base64url")];
  return parsedDigest(body.parsed);
}

function jsonDigest(body: Body, mediaType: string): Digest {
  if ("parsed" in body) return parsedDigest(body.parsed);
  if (JSON_TYPE.test(mediaType)) {
    try {
      const text = new TextDecoder("utf-8", { fatal: true }).decode(body.bytes);
      return ["j", hash("sha256", canonicalForm(parseJsonAsWritten(text)), "base64url")];
    } catch {
      // Not JSON after all: the handler will say so; the bytes tell requests apart.
    }
  }
  return bytesDigest(body);
}

/** The bytes are gone: a parser before us kept only this. */
function parsedDigest(parsed: unknown): Digest {
  if (parsed instanceof Uint8Array) return bytesDigest({ bytes: parsed });
  return ["p", hash("sha256", canonicalForm(parsed), "base64url")];
}

function selectable(bytes: Uint8Array, mediaType: string): unknown {
  const text = new TextDecoder().decode(bytes);
  if (JSON_TYPE.test(mediaType)) {
    try {
      return parseJsonAsWritten(text);
    } catch {
      // As in `jsonDigest`.
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
 */
export function parseJsonAsWritten(text: string): unknown {
  return JSON.parse(
    text.replace(STRING_OR_NUMBER, (token) =>
      token.startsWith('"') || String(Number(token)) === token ? token : `{"$number":"${token}"}`,
    ),
  );
}
