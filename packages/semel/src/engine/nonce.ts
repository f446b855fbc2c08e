// The nonces of claims (SM-16): whoever knows one made it.

import { randomFillSync } from "node:crypto";

// Drawn in blocks: asking the system for 16 bytes at a time costs more than the hashing.
const NONCE_BYTES = 16;
const entropy = Buffer.alloc(256 * NONCE_BYTES);
let used = entropy.length;

/** 16 random bytes in hexadecimal. */
export function nonce(): string {
  if (used === entropy.length) {
    randomFillSync(entropy);
    used = 0;
  }
  used += NONCE_BYTES;
  return entropy.toString("hex", used - NONCE_BYTES, used);
}
