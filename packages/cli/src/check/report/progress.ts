// One line on a terminal that says what is being asked; nothing where nobody is looking.

import type { Case } from "../case.ts";

export class Progress {
  readonly #stream: NodeJS.WriteStream;
  readonly #total: number;

  constructor(stream: NodeJS.WriteStream, total: number) {
    this.#stream = stream;
    this.#total = total;
  }

  show({ id }: Case, index: number): void {
    if (this.#stream.isTTY) this.#stream.write(`\r\x1b[2K${index + 1}/${this.#total}  ${id}`);
  }

  clear(): void {
    if (this.#stream.isTTY) this.#stream.write("\r\x1b[2K");
  }
}
