// What the handlers under test and the case that watches them share: counts of runs, gates that hold
// a handler where the case wants it, and notes of what a handler saw.

import { StageTimeout } from "./waiting.ts";

/** Where a handler waits until the case lets it go on. */
export interface Gate {
  /** Resolves when a handler stands at the gate. */
  readonly reached: Promise<void>;
  open(): void;
}

interface ClosedGate {
  reach(): void;
  opened: Promise<void>;
}

export interface StageSettings {
  status: number;
  /** The reason phrase behind the status; empty: the usual one. */
  reason: string;
  headers: Record<string, string | string[]>;
  bytes: number;
  contentType: string;
}

export class Stage {
  readonly #runs = new Map<string, number>();
  readonly #gates = new Map<string, ClosedGate>();
  /** What handlers saw, in order. */
  readonly notes: unknown[] = [];
  /** A file with {@link file.bytes}. */
  readonly file: { path: string; bytes: Uint8Array };
  /** What the handler of `status` answers with, and other knobs of single routes. */
  readonly settings: StageSettings = {
    status: 200,
    reason: "",
    headers: {},
    bytes: 0,
    contentType: "application/octet-stream",
  };

  constructor(file: { path: string; bytes: Uint8Array }) {
    this.file = file;
  }

  /** Called by a handler when it begins. @returns how often it has begun, this one included */
  enter(route: string): number {
    const run = this.runs(route) + 1;
    this.#runs.set(route, run);
    return run;
  }

  runs(route: string): number {
    return this.#runs.get(route) ?? 0;
  }

  /** Closes a gate: handlers wait at it until it is opened. */
  hold(name: string): Gate {
    let reach = () => {};
    let open = () => {};
    const reached = new Promise<void>((resolve, reject) => {
      const timer = setTimeout(() => reject(new StageTimeout(`nobody came to ${name}`)), 30_000);
      reach = () => {
        clearTimeout(timer);
        resolve();
      };
      timer.unref();
    });
    const opened = new Promise<void>((resolve) => {
      open = () => {
        this.#gates.delete(name);
        resolve();
      };
    });
    reached.catch(() => {});
    this.#gates.set(name, { reach, opened });
    return { reached, open };
  }

  /** Called by a handler: waits where a gate is closed. */
  async pass(name: string): Promise<void> {
    const gate = this.#gates.get(name);
    gate?.reach();
    await gate?.opened;
  }
}
