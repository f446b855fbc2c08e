// A completed record as bytes. Names and digests in their usual written forms (UUID, hexadecimal,
// base64url) take the bytes that they stand for; anything else is kept as UTF-8.
//
//   id 16 · createdAt 6 · forms of the four texts 1 · attempt · crashes and policy · time to
//   completion in ms · lengths of owner, fingerprint, scope, key, result · those five
//
// Numbers without a size are LEB128.

import type { CrashPolicy, RecordId } from "../store.ts";
import type { Slab } from "./memory-slabs.ts";

/** What is kept of a completed record beside its result and its end. */
export interface CompletedRecord {
  id: RecordId;
  owner: string;
  fingerprint: string;
  scope: string;
  key: string;
  attempt: number;
  crashes: number;
  onCrash: CrashPolicy;
  /** In whole milliseconds, as `updatedAt`. */
  createdAt: number;
  updatedAt: number;
}

/** A record that is about to be completed. */
export type FinishedRecord = Omit<CompletedRecord, "updatedAt">;

export const ID_BYTES = 16;
const CREATED_AT = ID_BYTES;
const FORMS_AT = CREATED_AT + 6;
const NUMBERS_AT = FORMS_AT + 1;
/** LEB128 of a whole number up to 2 ** 53. */
const NUMBER_BYTES_MAX = 8;
const NUMBERS = 8;
const TEXTS = ["owner", "fingerprint", "scope", "key"] as const;

const POLICIES: readonly CrashPolicy[] = ["rerun", "hold", "probe"];

/** How a text is kept. */
const PLAIN = 0;
const HEX = 1;
const UUID = 2;
/** Anything, and then 32 bytes in base64url. */
const DIGEST = 3;
const HEX_LENGTH = 32;
const UUID_LENGTH = 36;
const DIGEST_DIGITS = 43;
const DIGEST_BYTES = 32;

// Texts are short and looked at digit by digit: to call a regular expression, or a method of `Buffer`,
// takes longer than that.
const NO_DIGIT = 0xff;
const HEX_DIGITS = digits("0123456789abcdef");
const BASE64URL_DIGITS = digits("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_");
/** Longer texts are written by a call. */
const SHORT_LENGTH_MAX = 64;

/** What each character stands for, by its code. */
function digits(alphabet: string): Uint8Array {
  const values = new Uint8Array(128).fill(NO_DIGIT);
  for (let value = 0; value < alphabet.length; value++) values[alphabet.charCodeAt(value)] = value;
  return values;
}

/** Packs what stands before a result. Its buffer is used again: a pack lasts until the next. */
export class Packer {
  #buffer = Buffer.allocUnsafeSlow(1_024);
  #end = 0;

  pack(record: FinishedRecord, completedAt: number, resultLength: number): Uint8Array {
    this.#reserve(record);
    writeHex(record.id, this.#buffer, 0);
    this.#buffer.writeUIntBE(record.createdAt, CREATED_AT, 6);
    this.#end = NUMBERS_AT;
    this.#number(record.attempt);
    this.#number(record.crashes * 4 + POLICIES.indexOf(record.onCrash));
    this.#number(Math.max(0, completedAt - record.createdAt));
    const { owner, fingerprint, scope, key } = record;
    const forms =
      this.#length(owner) |
      (this.#length(fingerprint) << 2) |
      (this.#length(scope) << 4) |
      (this.#length(key) << 6);
    this.#buffer[FORMS_AT] = forms;
    this.#number(resultLength);
    this.#text(owner, formAt(forms, 0));
    this.#text(fingerprint, formAt(forms, 1));
    this.#text(scope, formAt(forms, 2));
    this.#text(key, formAt(forms, 3));
    return this.#buffer.subarray(0, this.#end);
  }

  /** Writes how long a text will be. @returns its form */
  #length(text: string): number {
    const form = formOf(text);
    this.#number(packedLength(text, form));
    return form;
  }

  #reserve({ owner, fingerprint, scope, key }: FinishedRecord): void {
    const units = owner.length + fingerprint.length + scope.length + key.length;
    const bytesMax = NUMBERS_AT + NUMBERS * NUMBER_BYTES_MAX + 3 * units;
    if (this.#buffer.length < bytesMax) this.#buffer = Buffer.allocUnsafeSlow(bytesMax);
  }

  #number(value: number): void {
    let rest = value;
    while (rest > 0x7f) {
      this.#buffer[this.#end++] = (rest % 0x80) | 0x80;
      rest = Math.floor(rest / 0x80);
    }
    this.#buffer[this.#end++] = rest;
  }

  #text(text: string, form: number): void {
    switch (form) {
      case HEX:
      case UUID:
        writeHex(text, this.#buffer, this.#end);
        this.#end += ID_BYTES;
        break;
      case DIGEST:
        this.#plain(text, text.length - DIGEST_DIGITS);
        writeDigest(text, this.#buffer, this.#end);
        this.#end += DIGEST_BYTES;
        break;
      default:
        this.#plain(text, text.length);
    }
  }

  /** Writes the first units of a text in UTF-8. */
  #plain(text: string, length: number): void {
    const buffer = this.#buffer;
    const start = this.#end;
    if (length <= SHORT_LENGTH_MAX) {
      let code = 0;
      let index = 0;
      while (index < length && code < 0x80) {
        code = text.charCodeAt(index);
        buffer[start + index++] = code;
      }
      if (code < 0x80) {
        this.#end += length;
        return;
      }
    }
    this.#end += buffer.write(length === text.length ? text : text.slice(0, length), start);
  }
}

/** A packed record where it lies; good until its slab changes. */
export class PackedRecord implements CompletedRecord {
  readonly attempt: number;
  readonly crashes: number;
  readonly onCrash: CrashPolicy;
  readonly createdAt: number;
  readonly updatedAt: number;
  /** What it takes in its slab. */
  readonly length: number;
  readonly #slab: Slab;
  readonly #offset: number;
  readonly #ends: number[] = [];
  #at: number;

  constructor(slab: Slab, offset: number) {
    this.#slab = slab;
    this.#offset = offset;
    this.#at = offset + NUMBERS_AT;
    this.createdAt = slab.buffer.readUIntBE(offset + CREATED_AT, 6);
    this.attempt = this.#number();
    const crashes = this.#number();
    this.crashes = Math.floor(crashes / 4);
    this.onCrash = POLICIES[crashes % 4]!;
    this.updatedAt = this.createdAt + this.#number();
    let end = 0;
    for (let part = 0; part <= TEXTS.length; part++) {
      end += this.#number();
      this.#ends.push(end);
    }
    this.length = this.#at + end - offset;
  }

  get id(): RecordId {
    return this.#slab.buffer.toString("hex", this.#offset, this.#offset + ID_BYTES);
  }

  get owner(): string {
    return this.#text(0);
  }

  get fingerprint(): string {
    return this.#text(1);
  }

  get scope(): string {
    return this.#text(2);
  }

  get key(): string {
    return this.#text(3);
  }

  /** A copy of the result. */
  result(): Uint8Array {
    return this.#slab.bytes.slice(this.#at + this.#ends[3]!, this.#at + this.#ends[4]!);
  }

  #number(): number {
    const { bytes } = this.#slab;
    let value = 0;
    let unit = 1;
    for (;;) {
      const byte = bytes[this.#at++]!;
      value += (byte & 0x7f) * unit;
      if (byte < 0x80) return value;
      unit *= 0x80;
    }
  }

  #text(index: number): string {
    const { buffer, bytes } = this.#slab;
    const start = this.#at + (this.#ends[index - 1] ?? 0);
    const end = this.#at + this.#ends[index]!;
    switch (formAt(bytes[this.#offset + FORMS_AT]!, index)) {
      case HEX:
        return buffer.toString("hex", start, end);
      case UUID:
        return uuidOf(buffer.toString("hex", start, end));
      case DIGEST: {
        const digestAt = end - DIGEST_BYTES;
        return (
          buffer.toString("utf8", start, digestAt) + buffer.toString("base64url", digestAt, end)
        );
      }
      default:
        return buffer.toString("utf8", start, end);
    }
  }
}

function formOf(text: string): number {
  if (text.length === HEX_LENGTH) return isHex(text, 0, HEX_LENGTH) ? HEX : PLAIN;
  if (text.length === UUID_LENGTH && isUuid(text)) return UUID;
  return text.length >= DIGEST_DIGITS && endsInDigest(text) ? DIGEST : PLAIN;
}

function isHex(text: string, from: number, to: number): boolean {
  for (let at = from; at < to; at++) {
    // A code beyond the table has no value there, and is no digit either.
    if (!(HEX_DIGITS[text.charCodeAt(at)]! < NO_DIGIT)) return false;
  }
  return true;
}

function isUuid(text: string): boolean {
  return (
    isHex(text, 0, 8) &&
    text[8] === "-" &&
    isHex(text, 9, 13) &&
    text[13] === "-" &&
    isHex(text, 14, 18) &&
    text[18] === "-" &&
    isHex(text, 19, 23) &&
    text[23] === "-" &&
    isHex(text, 24, UUID_LENGTH)
  );
}

function endsInDigest(text: string): boolean {
  for (let at = text.length - DIGEST_DIGITS; at < text.length; at++) {
    if (!(BASE64URL_DIGITS[text.charCodeAt(at)]! < NO_DIGIT)) return false;
  }
  // 43 digits carry two bits more than 32 bytes, which must be zero to come back as they were.
  return (BASE64URL_DIGITS[text.charCodeAt(text.length - 1)]! & 3) === 0;
}

function formAt(forms: number, index: number): number {
  return (forms >> (2 * index)) & 3;
}

function packedLength(text: string, form: number): number {
  if (form === PLAIN) return Buffer.byteLength(text);
  if (form === DIGEST) return Buffer.byteLength(text) - DIGEST_DIGITS + DIGEST_BYTES;
  return ID_BYTES;
}

/** Writes hexadecimal digits as bytes, leaving out dashes. */
export function writeHex(text: string, bytes: Uint8Array, offset: number): void {
  let at = offset;
  for (let index = 0; index < text.length; index += 2) {
    if (text.charCodeAt(index) === 0x2d) index++;
    bytes[at++] = (nibble(text.charCodeAt(index)) << 4) | nibble(text.charCodeAt(index + 1));
  }
}

/** Writes the digest that a text ends in, four digits as three bytes. */
function writeDigest(text: string, bytes: Uint8Array, offset: number): void {
  let at = offset;
  let bits = 0;
  const start = text.length - DIGEST_DIGITS;
  for (let index = 0; index < DIGEST_DIGITS; index++) {
    bits = (bits << 6) | BASE64URL_DIGITS[text.charCodeAt(start + index)]!;
    // Of each four digits the first completes no byte.
    if (index % 4 > 0) bytes[at++] = bits >> (6 - 2 * (index % 4));
  }
}

/** `0` to `9` and `a` to `f`: their low four bits, and nine more for letters. */
function nibble(code: number): number {
  return (code & 0x0f) + 9 * (code >> 6);
}

function uuidOf(hex: string): string {
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20)}`;
}
