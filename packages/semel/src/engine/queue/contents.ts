// What is in an item of the queue: who it belongs to, and its value, as nobody but Semel can read it
// where there is encryption (ST-11). Stores never look inside.
//
//   payload = format, 1 (1) · length of the head (4, big endian) · head as JSON · value by the codec

import { InvalidOption, RecordUnreadable } from "../../errors.ts";
import type { QueueItem } from "../../store.ts";
import type { Cipher, Names } from "../at-rest.ts";
import { headAndValue, headed } from "../journal.ts";

/** An item before it is sealed. */
export interface Content extends Omit<QueueItem, "payload"> {
  /** As whoever does it is to see it. */
  shown: { scope: string; key: string };
  /** Of a durable operation's input. */
  fingerprint?: string;
  /** Of whoever adds it, to know its own again. */
  nonce?: string;
  value: Uint8Array;
}

/** What is found in an item. */
export interface Unsealed {
  scope: string;
  key: string;
  fingerprint: string;
  nonce: string;
  value: Uint8Array;
}

interface Head {
  scope?: string;
  key?: string;
  fingerprint?: string;
  nonce?: string;
}

const FORMAT = 1;

export class Contents {
  readonly #cipher: Cipher | undefined;
  readonly #names: Names;

  constructor(cipher: Cipher | undefined, names: Names) {
    this.#cipher = cipher;
    this.#names = names;
  }

  /** @throws {InvalidOption} when names are to be hidden and contents are not */
  assertUsable(what: string): void {
    if (!this.#names.isHashed || this.#cipher) return;
    throw new InvalidOption(
      `${what} has to keep its scope and key, which \`hashKeys\` is to hide: set \`encryption\` as well`,
    );
  }

  seal({ shown, fingerprint, nonce, value, ...item }: Content): QueueItem {
    const names = this.#names;
    const head: Head = { fingerprint, nonce } as Head;
    if (names.isHashed || shown.scope !== item.scope) head.scope = shown.scope;
    if (names.isHashed) head.key = shown.key;
    const bytes = Buffer.concat([Uint8Array.of(FORMAT), headed(head, value)]);
    return {
      ...item,
      scope: names.hidden("scope", item.scope),
      key: names.hidden("key", item.key),
      payload: this.#cipher ? this.#cipher.encrypt(bytes, item.id) : bytes,
    };
  }

  /** @throws {RecordUnreadable} */
  unseal({ id, scope, key, payload }: QueueItem): Unsealed {
    const bytes = this.#cipher ? this.#cipher.decrypt(payload, id) : payload;
    if (bytes[0] !== FORMAT) {
      throw new RecordUnreadable(
        `What is queued has format ${bytes[0]}, this version reads ${FORMAT}: it was written by a newer version of Semel, it is encrypted and there is no \`encryption\` here, or it is damaged`,
      );
    }
    try {
      const { head, value } = headAndValue(bytes.subarray(1)) as { head: Head; value: Uint8Array };
      const { fingerprint = "", nonce = "" } = head;
      return { scope: head.scope ?? scope, key: head.key ?? key, fingerprint, nonce, value };
    } catch (cause) {
      throw new RecordUnreadable("What is queued cannot be decoded: it is damaged", { cause });
    }
  }
}
