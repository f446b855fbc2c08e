// Bounds how many of a kind of work run at once; the rest wait in the order in which they came.

export class Slots {
  readonly #max: number;
  #free: number;
  readonly #waiting: (() => void)[] = [];
  #dispersed: Promise<void> | undefined;
  #disperse: (() => void) | undefined;

  constructor(max: number) {
    this.#max = max;
    this.#free = max;
  }

  /** While twice as many wait as may run: resolves when they are fewer. */
  get crowd(): Promise<void> | undefined {
    if (!this.#isCrowded) return undefined;
    this.#dispersed ??= new Promise((resolve) => {
      this.#disperse = resolve;
    });
    return this.#dispersed;
  }

  /** Does the work when a slot is free. */
  async run<Result>(work: () => Result | Promise<Result>): Promise<Result> {
    if (this.#free > 0) this.#free--;
    else await new Promise<void>((resolve) => this.#waiting.push(resolve));
    if (this.#disperse && !this.#isCrowded) {
      this.#disperse();
      this.#disperse = undefined;
      this.#dispersed = undefined;
    }
    try {
      return await work();
    } finally {
      const next = this.#waiting.shift();
      if (next) next();
      else this.#free++;
    }
  }

  get #isCrowded(): boolean {
    return this.#waiting.length >= 2 * this.#max;
  }
}
