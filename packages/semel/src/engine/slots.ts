// Bounds how many of a kind of work run at once; the rest wait in the order in which they came.

export class Slots {
  readonly #max: number;
  #free: number;
  readonly #waiting: (() => void)[] = [];

  constructor(max: number) {
    this.#max = max;
    this.#free = max;
  }

  /** Whether twice as many wait as may run. */
  get isCrowded(): boolean {
    return this.#waiting.length >= 2 * this.#max;
  }

  /** Does the work when a slot is free. */
  async run<Result>(work: () => Result | Promise<Result>): Promise<Result> {
    if (this.#free > 0) this.#free--;
    else await new Promise<void>((resolve) => this.#waiting.push(resolve));
    try {
      return await work();
    } finally {
      const next = this.#waiting.shift();
      if (next) next();
      else this.#free++;
    }
  }
}
