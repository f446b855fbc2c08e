// The public keys that tokens are verified with, fetched when they are needed and kept: a key that is
// new is fetched for, but not as often as somebody asks for one that does not exist.

import { createLocalJWKSet, errors, type JWTVerifyGetKey } from "jose";

/** From this age on they are fetched anew, while the old ones serve. */
const RENEWED_MS = 10 * 60_000;
/** From this age on they serve no more, wherever the new ones are. */
const OLD_MS = 60 * 60_000;
/** Between two fetches for keys that are not there, or that did not come. */
const PAUSE_MS = 5_000;
const FETCH_MS = 5_000;
const BYTES_MAX = 2 ** 20;

/** The keys could not be fetched: nothing can be said about a token. */
export class KeysUnavailable extends Error {}

export class KeySet {
  readonly #url: URL;
  #find: JWTVerifyGetKey | undefined;
  #fetchedAt = Number.NEGATIVE_INFINITY;
  #triedAt = Number.NEGATIVE_INFINITY;
  #fetching: Promise<void> | undefined;

  constructor(url: URL) {
    this.#url = url;
  }

  /**
   * The key that a token names.
   *
   * @throws {KeysUnavailable}
   * @throws {errors.JWKSNoMatchingKey} when there is none
   */
  readonly find: JWTVerifyGetKey = async (header, token) => {
    const age = performance.now() - this.#fetchedAt;
    if (age > OLD_MS) await this.#fetch();
    else if (age > RENEWED_MS && this.#mayTry()) void this.#fetch().catch(() => {});
    try {
      return await this.#find!(header, token);
    } catch (error) {
      if (!(error instanceof errors.JWKSNoMatchingKey) || !this.#mayTry()) throw error;
      await this.#fetch();
      return this.#find!(header, token);
    }
  };

  #mayTry(): boolean {
    return this.#fetching !== undefined || performance.now() - this.#triedAt > PAUSE_MS;
  }

  /** One at a time, whoever asks. */
  async #fetch(): Promise<void> {
    if (!this.#mayTry()) throw new KeysUnavailable("the last fetch has failed");
    this.#fetching ??= this.#fetchNow().finally(() => {
      this.#fetching = undefined;
    });
    await this.#fetching;
  }

  async #fetchNow(): Promise<void> {
    this.#triedAt = performance.now();
    try {
      const response = await fetch(this.#url, {
        headers: { accept: "application/json, application/jwk-set+json" },
        signal: AbortSignal.timeout(FETCH_MS),
      });
      if (response.status !== 200) throw new Error(`it answered ${response.status}`);
      this.#find = createLocalJWKSet(JSON.parse(await textOf(response)));
      this.#fetchedAt = performance.now();
    } catch (cause) {
      throw new KeysUnavailable(`${this.#url.origin}: the key set could not be fetched`, { cause });
    }
  }
}

async function textOf({ body }: Response): Promise<string> {
  const chunks: Uint8Array[] = [];
  let length = 0;
  for await (const chunk of body ?? []) {
    length += chunk.length;
    if (length > BYTES_MAX) throw new Error("it is too large");
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString("utf8");
}
