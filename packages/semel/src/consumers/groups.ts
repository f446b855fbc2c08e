// Messages of a group one after the other, those of different groups at once.

/** The messages of one batch, in the order in which they came. */
export class Groups {
  readonly #last = new Map<string, Promise<boolean>>();

  /**
   * Begins with a message, as `settle` does it.
   *
   * @param group of the message; `undefined`: it has no order
   * @param settle is told of the message before it in its group: whether that was done with
   * @returns whether it was done with
   */
  begin(
    group: string | undefined,
    settle: (after: Promise<boolean> | undefined) => Promise<boolean>,
  ): Promise<boolean> {
    if (group === undefined) return settle(undefined);
    const settled = settle(this.#last.get(group));
    this.#last.set(group, settled);
    return settled;
  }
}
