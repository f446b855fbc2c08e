// Large buffers that many records share: written one after the other, given back as a whole. What
// lies in them costs the garbage collector nothing.

/** Half a thousand records of usual size. */
export const SLAB_BYTES = 2 ** 18;
/** A larger record has a slab of its own, so that the unused end of a shared one stays small. */
const SHARED_BYTES_MAX = SLAB_BYTES / 16;
/** Empty slabs that are kept, so that a steady flow allocates nothing. */
const SPARE_MAX = 8;
/**
 * What is not in use may take this share of what is, and some slabs. More than the unused ends can
 * come to, so that moving records always gains.
 */
const EXCESS_SHARE_MAX = 1 / 8;
const EXCESS_SLABS_MAX = 2;

export class Slab {
  readonly bytes: Uint8Array;
  /** The same memory, for text. */
  readonly buffer: Buffer;
  readonly view: DataView;
  /** Everything before is written. */
  used = 0;
  /** How much of what is written is still wanted. */
  live = 0;

  constructor(length: number) {
    this.bytes = new Uint8Array(length);
    this.buffer = Buffer.from(this.bytes.buffer);
    this.view = new DataView(this.bytes.buffer);
  }

  get excess(): number {
    return this.bytes.length - this.live;
  }
}

export class Slabs {
  readonly #slabs: (Slab | undefined)[] = [];
  readonly #unusedNumbers: number[] = [];
  readonly #spare: Slab[] = [];
  /** The one that is being written, by number. */
  #current = -1;
  #capacity = 0;
  #live = 0;

  /** What the slabs take, wanted or not. */
  get capacity(): number {
    return this.#capacity;
  }

  get(number: number): Slab {
    return this.#slabs[number]!;
  }

  /** @returns the number of a slab, the last `length` used bytes of which are the caller's */
  take(length: number): number {
    const number = length > SHARED_BYTES_MAX ? this.#add(new Slab(length)) : this.#shared(length);
    const slab = this.get(number);
    slab.used += length;
    slab.live += length;
    this.#live += length;
    return number;
  }

  /** Gives bytes back. */
  release(number: number, length: number): void {
    const slab = this.get(number);
    slab.live -= length;
    this.#live -= length;
    if (slab.live > 0) return;
    if (number === this.#current) slab.used = 0;
    else this.#drop(number);
  }

  /**
   * The slab with the most to gain when its records move elsewhere, as long as more memory lies idle
   * than should.
   */
  wasteful(): number | undefined {
    const excessMax = this.#live * EXCESS_SHARE_MAX + EXCESS_SLABS_MAX * SLAB_BYTES;
    if (this.#capacity - this.#live <= excessMax) return undefined;
    let most: number | undefined;
    for (const [number, slab] of this.#slabs.entries()) {
      if (slab === undefined || number === this.#current) continue;
      if (most === undefined || slab.excess > this.get(most).excess) most = number;
    }
    return most;
  }

  #shared(length: number): number {
    const current = this.#slabs[this.#current];
    if (current !== undefined && current.used + length <= SLAB_BYTES) return this.#current;
    this.#current = this.#add(this.#spare.pop() ?? new Slab(SLAB_BYTES));
    return this.#current;
  }

  #add(slab: Slab): number {
    const number = this.#unusedNumbers.pop() ?? this.#slabs.length;
    this.#slabs[number] = slab;
    this.#capacity += slab.bytes.length;
    return number;
  }

  #drop(number: number): void {
    const slab = this.get(number);
    this.#slabs[number] = undefined;
    this.#unusedNumbers.push(number);
    this.#capacity -= slab.bytes.length;
    if (slab.bytes.length !== SLAB_BYTES || this.#spare.length === SPARE_MAX) return;
    slab.used = 0;
    this.#spare.push(slab);
  }
}
