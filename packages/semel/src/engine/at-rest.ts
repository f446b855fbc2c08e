// What a store gets to see of operations (ST-11): results encrypted; scopes, keys, ids and fingerprints
// as keyed hashes. Stores do not know of either.
//
//   encrypted result = 0xE1 · length of the key's id (1) · key's id · nonce (12) · tag (16) · ciphertext

import {
  createCipheriv,
  createDecipheriv,
  createHmac,
  createSecretKey,
  type KeyObject,
  randomBytes,
} from "node:crypto";
import { InvalidOption, RecordUnreadable } from "../errors.ts";
import { redigested } from "../fingerprint.ts";
import { recordId } from "../key.ts";
import { assertKnownOptions } from "../options.ts";
import type {
  BeginAnswer,
  Claim,
  Ending,
  JournalEntry,
  ListQuery,
  RecordId,
  Resolution,
  Store,
  StoredRecord,
  StoreTransactions,
  VoidRequest,
} from "../store.ts";
import { frame, framesOf } from "./journal.ts";

/** Encryption of results at rest with AES-256-GCM (NIST SP 800-38D). */
export interface EncryptionOptions {
  /** 32-byte keys by their ids. Old ones stay for as long as results under them are kept. */
  keys: Readonly<Record<string, Uint8Array>>;
  /** The id of the key that new results are encrypted under. */
  current: string;
}

const MARK = 0xe1;
const KEY_BYTES = 32;
const NONCE_BYTES = 12;
const TAG_BYTES = 16;
const KEY_ID_LENGTH_MAX = 32;
const SECRET_BYTES_MIN = 16;

/** Puts encryption and hashing in front of a store. */
export function protectedStore<Kept extends Store>(
  store: Kept,
  cipher: Cipher | undefined,
  names: Names,
): Kept {
  if (!cipher && !names.isHashed) return store;
  const overrides = transitions(store, new Veil(cipher, names));
  // What is not about names and results, such as `migrate()`, is the store's own.
  return new Proxy(store, {
    get: (target, name) => {
      if (name in overrides) return overrides[name as keyof typeof overrides];
      const member: unknown = Reflect.get(target, name, target);
      return typeof member === "function" ? member.bind(target) : member;
    },
  });
}

function transitions(store: Store, veil: Veil) {
  const { transactions } = store;
  return {
    begin: async (claim: Claim) => veil.answer(await store.begin(veil.named(claim)), claim.id),
    settle: (ending: Ending) => store.settle(veil.ending(ending)),
    ...(store.append && {
      append: (entry: JournalEntry) => store.append!(veil.entry(entry)),
    }),
    async read(id: RecordId) {
      const record = await store.read(id);
      return record && veil.record(record);
    },
    resolve: (resolution: Resolution) =>
      store.resolve(
        resolution.kind === "complete"
          ? { ...resolution, result: veil.hide(resolution.result, resolution.id) }
          : resolution,
      ),
    void: (request: VoidRequest) => store.void(veil.named(request)),
    list: (query: ListQuery) =>
      store.list(query.scope === undefined ? query : { ...query, scope: veil.scope(query.scope) }),
    ...(transactions && { transactions: veiledTransactions(transactions, veil) }),
  };
}

function veiledTransactions(transactions: StoreTransactions, veil: Veil): StoreTransactions {
  const completing =
    (complete: StoreTransactions["complete"]): StoreTransactions["complete"] =>
    (executor, claim, result, retentionMs) =>
      complete(executor, veil.named(claim), veil.hide(result, claim.id), retentionMs);
  return {
    ...(transactions.dialect && { dialect: transactions.dialect }),
    concurrencyMax: transactions.concurrencyMax,
    run: (work) => transactions.run(work),
    isRetryable: (error) => transactions.isRetryable(error),
    complete: completing((...ending) => transactions.complete(...ending)),
    ...(transactions.completeAndCommit && {
      completeAndCommit: completing((...ending) => transactions.completeAndCommit!(...ending)),
    }),
    async completeMany(executor, claims, results, retentionMs) {
      const named = claims.map((claim) => veil.named(claim));
      const hidden = results.map((result, index) => veil.hide(result, claims[index]!.id));
      const answers = await transactions.completeMany(executor, named, hidden, retentionMs);
      return answers.map((answer, index) => veil.answer(answer, claims[index]!.id));
    },
    reopen: (executor, tokens, retentionMs) => transactions.reopen(executor, tokens, retentionMs),
    begin: async (executor, claim) =>
      veil.answer(await transactions.begin(executor, veil.named(claim)), claim.id),
    ...(transactions.append && {
      append: (executor, entry) => transactions.append!(executor, veil.entry(entry)),
    }),
    settle: (executor, ending) => transactions.settle(executor, veil.ending(ending)),
    // What is queued is sealed before.
    ...(transactions.enqueue && {
      enqueue: (...given) => transactions.enqueue!(...given),
    }),
  };
}

/** Between the names and bytes that the engine knows and those that the store keeps. */
class Veil {
  readonly #cipher: Cipher | undefined;
  readonly #names: Names;

  constructor(cipher: Cipher | undefined, names: Names) {
    this.#cipher = cipher;
    this.#names = names;
  }

  scope(scope: string): string {
    return this.#names.hidden("scope", scope);
  }

  named<Named extends { scope: string; key: string }>(named: Named): Named {
    if (!this.#names.isHashed) return named;
    const { scope, key } = named;
    return { ...named, scope: this.scope(scope), key: this.#names.hidden("key", key) };
  }

  ending(ending: Ending): Ending {
    if (ending.kind !== "complete") return ending;
    return { ...ending, result: this.hide(ending.result, ending.id) };
  }

  hide(result: Uint8Array, id: RecordId): Uint8Array {
    return this.#cipher ? this.#cipher.encrypt(result, id) : result;
  }

  answer(answer: BeginAnswer, id: RecordId): BeginAnswer {
    if (answer.kind !== "done" || !this.#cipher) return answer;
    return { ...answer, result: this.#cipher.decrypt(answer.result, id) };
  }

  /** Each frame for itself, so that what is appended needs nothing of what stands before it. */
  entry(entry: JournalEntry): JournalEntry {
    if (!this.#cipher) return entry;
    const hidden = framesOf(entry.bytes).map((bytes) => frame(this.hide(bytes, entry.id)));
    return { ...entry, bytes: Buffer.concat(hidden) };
  }

  record(record: StoredRecord): StoredRecord {
    const cipher = this.#cipher;
    if (!cipher || (record.result === null && record.journal === null)) return record;
    const { id, result, journal } = record;
    const shown = journal && framesOf(journal).map((bytes) => frame(cipher.decrypt(bytes, id)));
    return {
      ...record,
      result: result && cipher.decrypt(result, id),
      journal: shown && Buffer.concat(shown),
    };
  }
}

/** Encrypts what is kept of an operation. */
export class Cipher {
  readonly #keys = new Map<string, KeyObject>();
  readonly #current: string;

  /** @throws {InvalidOption} for a key of the wrong size or an unknown current one */
  constructor(options: EncryptionOptions) {
    assertKnownOptions(options, ["keys", "current"], "`encryption`");
    for (const [id, key] of Object.entries(options.keys ?? {})) {
      if (!/^[\x21-\x7e]+$/.test(id) || id.length > KEY_ID_LENGTH_MAX) {
        throw new InvalidOption(
          `\`encryption.keys\` holds the id ${JSON.stringify(id)}: ids are 1 to ${KEY_ID_LENGTH_MAX} printable ASCII characters`,
        );
      }
      if (!(key instanceof Uint8Array) || key.byteLength !== KEY_BYTES) {
        throw new InvalidOption(`\`encryption.keys.${id}\` must be ${KEY_BYTES} random bytes`);
      }
      this.#keys.set(id, createSecretKey(key));
    }
    if (!this.#keys.has(options.current)) {
      throw new InvalidOption("`encryption.current` must be the id of one of `encryption.keys`");
    }
    this.#current = options.current;
  }

  /** The record's id is authenticated with it, so that results cannot be moved between records. */
  encrypt(result: Uint8Array, id: RecordId): Uint8Array {
    const nonce = randomBytes(NONCE_BYTES);
    const cipher = createCipheriv("aes-256-gcm", this.#keys.get(this.#current)!, nonce);
    cipher.setAAD(Buffer.from(id));
    const text = Buffer.concat([cipher.update(result), cipher.final()]);
    const head = Buffer.from([MARK, this.#current.length]);
    return Buffer.concat([head, Buffer.from(this.#current), nonce, cipher.getAuthTag(), text]);
  }

  /** Results from before encryption was switched on are read as they are. */
  decrypt(result: Uint8Array, id: RecordId): Uint8Array {
    if (result[0] !== MARK) return result;
    const bytes = Buffer.from(result.buffer, result.byteOffset, result.byteLength);
    const nonceAt = 2 + (bytes[1] ?? 0);
    const tagAt = nonceAt + NONCE_BYTES;
    const textAt = tagAt + TAG_BYTES;
    const keyId = bytes.toString("latin1", 2, nonceAt);
    const key = this.#keys.get(keyId);
    if (key === undefined) {
      throw new RecordUnreadable(
        `A stored result is encrypted under the key "${keyId}", which is not among \`encryption.keys\`; keep old keys until their results have expired`,
      );
    }
    try {
      const decipher = createDecipheriv("aes-256-gcm", key, bytes.subarray(nonceAt, tagAt), {
        authTagLength: TAG_BYTES,
      });
      decipher.setAAD(Buffer.from(id));
      decipher.setAuthTag(bytes.subarray(tagAt, textAt));
      return Buffer.concat([decipher.update(bytes.subarray(textAt)), decipher.final()]);
    } catch (cause) {
      throw new RecordUnreadable(
        `A stored result does not decrypt under the key "${keyId}": it is damaged, belongs to another record, or the key is another one`,
        { cause },
      );
    }
  }
}

/**
 * How operations are called in the store: in clear, or by HMAC-SHA256 (RFC 2104), so that nobody
 * without the secret can guess keys and payloads from what is stored.
 */
export class Names {
  readonly #secret: KeyObject | undefined;

  /** @throws {InvalidOption} when the secret is too short */
  constructor(secret: Uint8Array | undefined) {
    if (secret === undefined) return;
    if (!(secret instanceof Uint8Array) || secret.byteLength < SECRET_BYTES_MIN) {
      throw new InvalidOption(
        `\`hashKeys\` must be a secret of at least ${SECRET_BYTES_MIN} bytes`,
      );
    }
    this.#secret = createSecretKey(secret);
  }

  get isHashed(): boolean {
    return this.#secret !== undefined;
  }

  id(scope: string, key: string): RecordId {
    const id = recordId(scope, key);
    return this.#secret ? this.#hmac("id", id, this.#secret).toString("hex", 0, 16) : id;
  }

  hidden(use: "scope" | "key" | "fingerprint", text: string): string {
    return this.#secret ? this.#hmac(use, text, this.#secret).toString("base64url") : text;
  }

  /** Labels stay, because they say what may be compared. */
  fingerprint(fingerprint: string): string {
    if (!this.#secret) return fingerprint;
    return redigested(fingerprint, (part) => this.hidden("fingerprint", part));
  }

  #hmac(use: string, text: string, secret: KeyObject): Buffer {
    return createHmac("sha256", secret).update(`${use}:${text}`).digest();
  }
}
