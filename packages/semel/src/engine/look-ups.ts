// Looks at records before transactions begin. While so many transactions wait for a connection that
// nobody who comes now could begin sooner, look-ups wait for each other, so that they share a
// statement.

import type { Clock } from "../clock.ts";
import { pause } from "../retry.ts";
import type { RecordId, StoredRecord } from "../store.ts";

/** Whose answer is there already waits no longer than this for others. */
const TOGETHER_MS = 20;

export class LookUps {
  readonly #clock: Clock;
  readonly #read: (id: RecordId) => Promise<StoredRecord | undefined>;
  readonly #crowd: () => Promise<void> | undefined;
  #together: Promise<void> | undefined;

  /** @param crowd while there is enough to do without those who look now: resolves when there is not */
  constructor(
    clock: Clock,
    read: (id: RecordId) => Promise<StoredRecord | undefined>,
    crowd: () => Promise<void> | undefined,
  ) {
    this.#clock = clock;
    this.#read = read;
    this.#crowd = crowd;
  }

  async look(id: RecordId): Promise<StoredRecord | undefined> {
    if (this.#together === undefined) this.#gather();
    await this.#together;
    return this.#read(id);
  }

  #gather(): void {
    const crowd = this.#crowd();
    if (crowd === undefined) return;
    this.#together = pause(this.#clock, TOGETHER_MS, undefined, crowd).then(() => {
      this.#together = undefined;
    });
  }
}
