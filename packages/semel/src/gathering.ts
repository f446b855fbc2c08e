// What is asked one by one, asked together: whatever is there when the other side is free is one batch,
// and each has its own answer.

interface Waiting<Item, Answer> {
  item: Item;
  resolve(answer: Answer): void;
  reject(error: unknown): void;
}

export class Gathering<Item, Answer> {
  readonly #ask: (items: readonly Item[]) => Promise<readonly Answer[]>;
  readonly #take: (waiting: readonly Item[]) => number;
  readonly #parallel: number;
  readonly #waiting: Waiting<Item, Answer>[] = [];
  #asking = 0;

  /**
   * @param ask answers each, in their order
   * @param take how many of what waits are the next batch; at least 1
   * @param parallel how many batches are asked at once
   */
  constructor(
    ask: (items: readonly Item[]) => Promise<readonly Answer[]>,
    take: (waiting: readonly Item[]) => number,
    parallel = 1,
  ) {
    this.#ask = ask;
    this.#take = take;
    this.#parallel = parallel;
  }

  ask(item: Item): Promise<Answer> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ item, resolve, reject });
      if (this.#asking < this.#parallel) void this.#empty();
    });
  }

  async #empty(): Promise<void> {
    this.#asking++;
    // What comes in the same turn, as an answer of many messages does, is one batch.
    await new Promise(setImmediate);
    while (this.#waiting.length > 0) {
      const batch = this.#waiting.splice(0, this.#take(this.#waiting.map(({ item }) => item)));
      try {
        const answers = await this.#ask(batch.map(({ item }) => item));
        for (const [index, { resolve }] of batch.entries()) resolve(answers[index]!);
      } catch (error) {
        for (const { reject } of batch) reject(error);
      }
      await new Promise(setImmediate);
    }
    this.#asking--;
  }
}
