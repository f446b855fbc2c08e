// What a handler has begun and may not have waited for.

export class Underway {
  readonly #running = new Set<Promise<unknown>>();
  #isOver = false;

  get size(): number {
    return this.#running.size;
  }

  /** Whether the operation has ended: nothing may begin any more. */
  get isOver(): boolean {
    return this.#isOver;
  }

  track(work: Promise<unknown>): void {
    this.#running.add(work);
    const leave = () => this.#running.delete(work);
    // Also, so that what nobody waits for does not count as unhandled: `conclude` tells of it.
    work.then(leave, leave);
  }

  /** Waits for everything; nothing may begin from here on. */
  async finish(): Promise<void> {
    this.#isOver = true;
    while (this.#running.size > 0) await Promise.allSettled(this.#running);
  }

  /** {@link finish}. @returns what failed of that which nobody had waited for */
  async conclude(): Promise<unknown[]> {
    const unawaited = [...this.#running];
    await this.finish();
    const ended = await Promise.allSettled(unawaited);
    return ended.flatMap((one) => (one.status === "rejected" ? [one.reason] : []));
  }
}
