// What makes two HTTP requests the same request: SHA-256 over length-framed method, target and media
// type, and SHA-256 over what counts of the body (HTTP-5). They are apart because what counts of a body is
// the choice of a route: another route, or the next deploy of this one, may choose otherwise, and must still
// tell an operation of its own from one of another.

import { createHash, hash } from "node:crypto";
import { canonicalForm } from "../canonical-form.ts";
import { InvalidOption } from "../errors.ts";
import { type FingerprintSelection, fingerprinter, joined, labelled } from "../fingerprint.ts";

/** A request body: its bytes, or what a body parser left of it, and what a parser of uploads left beside that. */
export type Body = { bytes: Uint8Array } | { parsed: unknown; files?: readonly UploadedFile[] };

/** A file as `multer` leaves it: in memory, or on a disk, where it has no bytes. */
export interface UploadedFile {
  fieldname?: unknown;
  originalname?: unknown;
  mimetype?: unknown;
  buffer?: unknown;
}

export interface RequestLine {
  method: string;
  /** Path and query, as the client sent them. */
  target: string;
  /** The `Content-Type` field. */
  contentType: string | undefined;
}

export type BodyFingerprinter = (request: RequestLine, body: Body) => string;

/** Version of the framing of everything but the body. */
const HEAD_LABEL = "h1";
/** 128 bits. */
const HEAD_DIGEST_LENGTH = 22;
const JSON_TYPE = /^application\/(?:[\w.+-]+\+)?json$/;
/** Strings, which stay as they are, and numbers. */
const STRING_OR_NUMBER = /"[^"\\]*(?:\\.[^"\\]*)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g;

/** Makes the fingerprint function that an option asks for. */
export function bodyFingerprinter(
  option: "bytes" | "json" | FingerprintSelection,
): BodyFingerprinter {
  // One label for whatever a body turns out to be: only digests of one label are told apart.
  if (option === "bytes") return (request, body) => framed(request, "b", asSent(body));
  if (option === "json") {
    return (request, body) => framed(request, "j", asJson(body, mediaTypeOf(request)));
  }
  if (typeof option === "string") {
    throw new InvalidOption(
      `\`fingerprint\` must be "bytes", "json", { include: […] }, { exclude: […] } or a function, got "${option}"`,
    );
  }
  return selectingFingerprinter(option);
}

function selectingFingerprinter(option: FingerprintSelection): BodyFingerprinter {
  const select = fingerprinter(option as FingerprintSelection<never>);
  // A user's function gets the numbers that it knows, not what they were written like.
  const parseJson = typeof option === "function" ? JSON.parse : parseJsonAsWritten;
  return (request, body) => {
    const content =
      "parsed" in body ? body.parsed : selectable(body.bytes, mediaTypeOf(request), parseJson);
    // Where pointers lead nowhere all of it counts, or any two such bodies would be the same.
    const isWhole = typeof option !== "function" && !hasParts(content);
    const digest = select(isWhole ? {} : content);
    const colon = digest.indexOf(":");
    const selected: Content = { tag: "s", data: digest.slice(colon + 1) };
    return framed(request, `s-${digest.slice(0, colon)}`, isWhole ? asSent(body) : selected);
  };
}

/** Whether JSON Pointers can lead anywhere in it. */
function hasParts(content: unknown): boolean {
  return typeof content === "object" && content !== null && !(content instanceof Uint8Array);
}

/** What counts of a body. Its tag says what it is, so that bytes never look like anything else. */
interface Content {
  tag: "b" | "p" | "f" | "j" | "s";
  data: string | Uint8Array;
}

/** Bodies up to here are hashed in one call with their tag, which is most of its cost. */
const scratch = Buffer.allocUnsafeSlow(16_384);

function framed(request: RequestLine, label: string, { tag, data }: Content): string {
  if (typeof data === "string") return joined(headOf(request), labelled(label, tag + data));
  return joined(headOf(request), `${label}:${digestOf(tag, data)}`);
}

/** Everything but the body. */
function headOf(request: RequestLine): string {
  const { method, target } = request;
  const mediaType = mediaTypeOf(request);
  const text = `${method.length}:${method}${target.length}:${target}${mediaType.length}:${mediaType}`;
  if (text !== lastHead.text) {
    const digest = hash("sha256", text, "base64url").slice(0, HEAD_DIGEST_LENGTH);
    lastHead = { text, fingerprint: `${HEAD_LABEL}:${digest}` };
  }
  return lastHead.fingerprint;
}

/** Requests to one route mostly share theirs, which is half of the cost of a small request. */
let lastHead = { text: "", fingerprint: "" };

/** SHA-256 over both. */
function digestOf(tag: string, data: Uint8Array): string {
  if (tag.length + data.byteLength > scratch.length) {
    return createHash("sha256").update(tag).update(data).digest("base64url");
  }
  const dataAt = scratch.write(tag);
  scratch.set(data, dataAt);
  return hash("sha256", scratch.subarray(0, dataAt + data.byteLength), "base64url");
}

function mediaTypeOf({ contentType }: RequestLine): string {
  if (contentType === undefined) return "";
  const semicolon = contentType.indexOf(";");
  return (semicolon < 0 ? contentType : contentType.slice(0, semicolon)).trim().toLowerCase();
}

function asSent(body: Body): Content {
  // The bytes are gone: a parser before us kept only this.
  const sent = "bytes" in body ? body.bytes : body.parsed;
  if (sent instanceof Uint8Array) return { tag: "b", data: sent };
  const files = "bytes" in body ? undefined : body.files;
  if (files) return { tag: "f", data: canonicalForm([sent, files.map(contentOf)]) };
  return { tag: "p", data: canonicalForm(sent) };
}

/** @throws {InvalidOption} for a file that is not in memory */
function contentOf({ fieldname, originalname, mimetype, buffer }: UploadedFile): unknown[] {
  if (buffer instanceof Uint8Array) return [fieldname, originalname, mimetype, buffer];
  throw new InvalidOption(
    "An upload was parsed to files on a disk before idempotent(), and its bytes are not there to be compared: mount idempotent() before what parses uploads, keep them in memory, or choose by `fingerprint` which fields count",
  );
}

function asJson(body: Body, mediaType: string): Content {
  if ("bytes" in body && JSON_TYPE.test(mediaType)) {
    try {
      return { tag: "j", data: canonicalForm(parseJsonAsWritten(utf8(body.bytes))) };
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
  try {
    if (JSON_TYPE.test(mediaType)) return parseJson(utf8(bytes));
    if (mediaType === "application/x-www-form-urlencoded") return formFields(utf8(bytes)) ?? bytes;
  } catch {
    // As in `asJson`.
  }
  return bytes;
}

/** Names and values of a form, unless it holds bytes that are no text. */
function formFields(text: string): Record<string, string[]> | undefined {
  const form = new URLSearchParams(text);
  // They have all become this one character, and forms that differ would look the same.
  if (form.toString().includes("%EF%BF%BD")) return undefined;
  const fields: Record<string, string[]> = Object.create(null);
  for (const name of form.keys()) fields[name] = form.getAll(name);
  return fields;
}

/** @throws {TypeError} for what is no text: bytes that differ must not become alike */
function utf8(bytes: Uint8Array): string {
  // With its byte order mark, which JSON does not have (RFC 8259 §8.1).
  return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
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
