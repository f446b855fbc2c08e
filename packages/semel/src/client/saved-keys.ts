// Keys that outlive the page or the process: saved under the caller's name for the operation before
// the first byte is sent, and kept until the caller settles it, or the server has forgotten the key.

import type { Clock } from "../clock.ts";
import { RecordUnreadable, StoreUnavailable } from "../errors.ts";
import { pause } from "../retry.ts";
import { OperationExpired, OperationNameReused } from "./errors.ts";

/** `localStorage`, `sessionStorage`, or anything of that shape; answers may be promises. */
export interface KeyStorage {
  getItem(name: string): string | null | undefined | PromiseLike<string | null | undefined>;
  setItem(name: string, value: string): unknown;
  removeItem(name: string): unknown;
}

/** `navigator.locks`, or another lock that all users of a {@link KeyStorage} share. */
export interface KeyLocks {
  request<T>(name: string, callback: () => Promise<T>): Promise<T>;
  /** Which locks are held, as `navigator.locks` says it to all tabs at once. */
  query?(): Promise<{ held?: readonly { name?: string }[] }>;
}

/** What is known of an operation that has a saved key. */
export interface SavedOperation {
  key: string;
  /** `Repeatability-First-Sent` of all its attempts, an HTTP date. */
  firstSent: string;
  /** Whether its outcome has come: the same request gets it again from the server. */
  isAnswered: boolean;
}

interface Entry {
  version: 1;
  key: string;
  fingerprint: string;
  firstSent: string;
  /** When the server forgets it, in milliseconds since the Unix epoch; once it is answered. */
  forgottenAtMs?: number;
}

/** What a call needs of its key. */
export interface KeyClaim {
  name: string;
  fingerprint: string;
  mint(): Promise<string>;
  firstSent: string;
  signal: AbortSignal;
}

export interface SavedKeysOptions {
  storage: KeyStorage;
  locks: KeyLocks | undefined;
  /** How long servers remember keys, where they do not say it themselves. */
  retentionMs: number;
  clock: Clock;
  wallMs: () => number;
}

/**
 * Without a lock, whoever writes looks again after this time, and whoever is there then has the key:
 * longer than a storage takes from a read to the write that follows it.
 */
const READ_BACK_MS = 50;
const READ_BACKS_MAX = 20;
/**
 * Browsers show one tab a while later what another has written, even when a lock was handed over in
 * between; locks themselves they show at once. So for this time a lock's name says what was written.
 */
const ANNOUNCED_MS = 10_000;

export class SavedKeys {
  readonly #options: SavedKeysOptions;
  /** Who is at work on a name in this client, where there is no lock. */
  readonly #lines = new Map<string, Promise<unknown>>();

  constructor(options: SavedKeysOptions) {
    this.#options = options;
  }

  /**
   * The key of a name: the saved one, or a new one that is saved when this returns.
   *
   * @throws {OperationNameReused} when it was begun with another request
   * @throws {OperationExpired} when it got no answer within the retention
   * @throws {StoreUnavailable} when it cannot be saved
   */
  claim(claim: KeyClaim): Promise<{ key: string; firstSent: string }> {
    return this.#exclusively(claim.name, async () => {
      claim.signal.throwIfAborted();
      const { locks, clock } = this.#options;
      let entry = this.#usable(await this.#current(claim.name), claim) ?? (await this.#mint(claim));
      if (locks) return entry;
      for (let tries = 0; tries < READ_BACKS_MAX; tries++) {
        await pause(clock, READ_BACK_MS, claim.signal);
        const found = this.#usable(await this.#read(claim.name), claim);
        if (found?.key === entry.key) return entry;
        entry = found ?? (await this.#mint(claim));
      }
      throw new StoreUnavailable("`storage` does not keep what it is given; nothing was sent");
    });
  }

  /** The outcome has come: the key is kept for as long as the server keeps it. */
  async answered(name: string, key: string, expiresInMs: number | undefined): Promise<void> {
    const { retentionMs, wallMs } = this.#options;
    await this.#exclusively(name, async () => {
      const entry = await this.#read(name);
      // Somebody may have settled it meanwhile.
      if (entry?.key !== key) return;
      const forgottenAtMs = wallMs() + (expiresInMs ?? retentionMs);
      await this.#write(name, { ...entry, forgottenAtMs });
    });
  }

  /** The server says that this key never runs. */
  async unused(name: string, key: string): Promise<void> {
    await this.#exclusively(name, async () => {
      if ((await this.#current(name))?.key === key) await this.#forget(name, key);
    });
  }

  async settle(name: string): Promise<void> {
    await this.#exclusively(name, async () => {
      // What is damaged can be settled as well.
      const entry = await this.#current(name).catch(() => undefined);
      await this.#forget(name, entry?.key);
    });
  }

  async #forget(name: string, key: string | undefined): Promise<void> {
    await this.#remove(name);
    if (key !== undefined) await this.#announce(settledName(name, key));
  }

  /** What is saved, or was just saved or settled in another tab. */
  async #current(name: string): Promise<Entry | undefined> {
    const saved = await this.#read(name);
    const { held = [] } = (await this.#options.locks?.query?.()) ?? {};
    const announced = new Set(held.map((lock) => lock.name ?? ""));
    const isSettled = ({ key }: Entry) => announced.has(settledName(name, key));
    const prefix = entryName(name, "");
    for (const text of announced) {
      if (!text.startsWith(prefix)) continue;
      const entry = entryOf(text.slice(prefix.length), name);
      if (entry.key !== saved?.key && !isSettled(entry)) return entry;
    }
    return saved && !isSettled(saved) ? saved : undefined;
  }

  /** Holds a lock for a while, because of its name. */
  async #announce(text: string): Promise<void> {
    const { locks, clock } = this.#options;
    if (!locks?.query) return;
    await new Promise<void>((granted, failed) => {
      const hold = () => {
        granted();
        return pause(clock, ANNOUNCED_MS);
      };
      locks.request(text, hold).catch(failed);
    });
  }

  async saved(name: string): Promise<SavedOperation | undefined> {
    const entry = await this.#current(name);
    if (entry === undefined || this.#isForgotten(entry)) return undefined;
    const { key, firstSent, forgottenAtMs } = entry;
    return { key, firstSent, isAnswered: forgottenAtMs !== undefined };
  }

  #usable(entry: Entry | undefined, { name, fingerprint }: KeyClaim): Entry | undefined {
    if (entry === undefined || this.#isForgotten(entry)) return undefined;
    if (entry.fingerprint !== fingerprint) throw new OperationNameReused(name);
    const { retentionMs, wallMs } = this.#options;
    const isAnswered = entry.forgottenAtMs !== undefined;
    if (!isAnswered && wallMs() - Date.parse(entry.firstSent) > retentionMs) {
      throw new OperationExpired(name, entry.key, entry.firstSent);
    }
    return entry;
  }

  /** Its answer came once, and the server has forgotten it: the name is free. */
  #isForgotten({ forgottenAtMs }: Entry): boolean {
    return forgottenAtMs !== undefined && forgottenAtMs <= this.#options.wallMs();
  }

  async #mint({ name, fingerprint, mint, firstSent }: KeyClaim): Promise<Entry> {
    const entry: Entry = { version: 1, key: await mint(), fingerprint, firstSent };
    await this.#write(name, entry);
    await this.#announce(entryName(name, JSON.stringify(entry)));
    return entry;
  }

  async #read(name: string): Promise<Entry | undefined> {
    const text = await this.#use("getItem", () => this.#options.storage.getItem(itemName(name)));
    return typeof text === "string" ? entryOf(text, name) : undefined;
  }

  async #write(name: string, entry: Entry): Promise<void> {
    const text = JSON.stringify(entry);
    await this.#use("setItem", () => this.#options.storage.setItem(itemName(name), text));
  }

  async #remove(name: string): Promise<void> {
    await this.#use("removeItem", () => this.#options.storage.removeItem(itemName(name)));
  }

  async #use<T>(method: keyof KeyStorage, call: () => T | PromiseLike<T>): Promise<T> {
    try {
      return await call();
    } catch (cause) {
      const message = `\`storage.${method}\` failed; a key that cannot be saved is not used`;
      throw new StoreUnavailable(message, { cause });
    }
  }

  #exclusively<T>(name: string, work: () => Promise<T>): Promise<T> {
    const { locks } = this.#options;
    if (locks) return locks.request(itemName(name), work);
    const turn = (this.#lines.get(name) ?? Promise.resolve()).then(work);
    const end = turn
      .catch(() => {})
      .then(() => {
        if (this.#lines.get(name) === end) this.#lines.delete(name);
      });
    this.#lines.set(name, end);
    return turn;
  }
}

function itemName(name: string): string {
  return `semel:${name}`;
}

function entryName(name: string, entry: string): string {
  return `semel-key:${JSON.stringify(name)}:${entry}`;
}

function settledName(name: string, key: string): string {
  return `semel-settled:${JSON.stringify(name)}:${key}`;
}

function entryOf(text: string, name: string): Entry {
  try {
    const entry = JSON.parse(text) as Partial<Entry> | null;
    const { version, key, fingerprint, firstSent, forgottenAtMs } = entry ?? {};
    const isWhole =
      version === 1 &&
      [key, fingerprint, firstSent].every((part) => typeof part === "string") &&
      !Number.isNaN(Date.parse(firstSent!)) &&
      (forgottenAtMs === undefined || Number.isFinite(forgottenAtMs));
    if (isWhole) return entry as Entry;
  } catch {
    // Said below, whatever it is.
  }
  throw new RecordUnreadable(
    `What \`storage\` holds of the operation ${JSON.stringify(name)} is damaged or from a newer version; look up its outcome, then call \`settle(${JSON.stringify(name)})\`. Nothing was sent`,
  );
}
