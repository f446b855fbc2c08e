// Looks at records before transactions begin. While so many transactions wait for a connection that
// nobody who comes now could begin sooner, look-ups wait for each other, so that they share a
// statement.

import type { Clock } from "../clock.ts";
import { pause } from "../retry.ts";
import type { RecordId, StoredRecord } from "../store.ts";

/** Less than a transaction takes, so that nothing is later for it. */
const TOGETHER_MS = 2;

export class LookUps {
  readonly #clock: Clock;
  readonly #read: (id: RecordId) => Promise<StoredRecord | undefined>;
  readonly #isCrowded: () => boolean;
  #together: Promise<void> | undefined;

  /** @param isCrowded whether there is enough to do without those who look now */
  constructor(
    clock: Clock,
    read: (id: RecordId) => Promise<StoredRecord | undefined>,
    isCrowded: () => boolean,
  ) {
    this.#clock = clock;
    this.#read = read;
    this.#isCrowded = isCrowded;
  }

  async look(id: RecordId): Promise<StoredRecord | undefined> {
    if (this.#isCrowded()) {
      this.#together ??= pause(this.#clock, TOGETHER_MS).then(() => {
        this.#together = undefined;
      });
      await this.#together;
    }
    return this.#read(id);
  }
}
