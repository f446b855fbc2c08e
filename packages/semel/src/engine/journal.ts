// What an attempt has done so far, kept with its record: a sequence of entries that only grows. Stores
// keep the bytes and never look inside.
//
//   frame = length of the entry (4, big endian) · entry
//   entry = length of the head (4, big endian) · head as JSON · value by the codec

import { RecordUnreadable } from "../errors.ts";

/** What stands before an entry's value. */
export type EntryHead =
  /**
   * A step that ended, with its value. `place`: how many steps were called before it. `alone`: none ran
   * beside it. `undo`: there is something to undo.
   */
  | { kind: "done"; name: string; attempt: number; place: number; alone: boolean; undo?: true }
  /** A step that is about to run; nobody knows whether it did. `ageMs`: of the record, then. */
  | { kind: "begun"; name: string; attempt: number; ageMs: number }
  /** The operation has failed for good, with an error of this name: from here on it is undone. */
  | { kind: "failed"; name: string; message: string; attempt: number }
  /** The undoing of a step ended. */
  | { kind: "undone"; name: string; attempt: number };

export interface Entry {
  head: EntryHead;
  value: Uint8Array;
}

const LENGTH_BYTES = 4;
const EMPTY = new Uint8Array(0);

/** An entry in its frame. */
export function framedEntry(head: EntryHead, value: Uint8Array = EMPTY): Uint8Array {
  return frame(headed(head, value));
}

/** Bytes with a head before them that says what they are. */
export function headed(head: object, value: Uint8Array): Uint8Array {
  const text = Buffer.from(JSON.stringify(head));
  return Buffer.concat([lengthOf(text), text, value]);
}

/** What {@link headed} has put together. @throws when it is damaged */
export function headAndValue(bytes: Uint8Array): { head: unknown; value: Uint8Array } {
  const view = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const valueAt = LENGTH_BYTES + view.readUInt32BE();
  if (valueAt > view.length) throw new Error("bad head");
  const head = JSON.parse(view.toString("utf8", LENGTH_BYTES, valueAt));
  return { head, value: view.subarray(valueAt) };
}

/** Bytes in a frame, so that a sequence of them can be told apart. */
export function frame(bytes: Uint8Array): Uint8Array {
  return Buffer.concat([lengthOf(bytes), bytes]);
}

function lengthOf(bytes: Uint8Array): Buffer {
  const length = Buffer.allocUnsafe(LENGTH_BYTES);
  length.writeUInt32BE(bytes.byteLength);
  return length;
}

/**
 * What is in the frames of a journal.
 *
 * @throws {RecordUnreadable} when it is damaged
 */
export function framesOf(journal: Uint8Array): Uint8Array[] {
  const view = Buffer.from(journal.buffer, journal.byteOffset, journal.byteLength);
  const frames: Uint8Array[] = [];
  for (let at = 0; at < view.length; ) {
    const end = at + LENGTH_BYTES <= view.length ? at + LENGTH_BYTES + view.readUInt32BE(at) : NaN;
    if (!(end <= view.length)) throw damaged();
    frames.push(view.subarray(at + LENGTH_BYTES, end));
    at = end;
  }
  return frames;
}

/**
 * The entries of a journal, in the order in which they were written.
 *
 * @throws {RecordUnreadable} when it is damaged
 */
export function entriesOf(journal: Uint8Array): Entry[] {
  return framesOf(journal).map((bytes) => {
    try {
      const { head, value } = headAndValue(bytes) as Entry;
      if (typeof head.name !== "string") throw new Error("bad head");
      return { head, value };
    } catch (cause) {
      throw damaged(cause);
    }
  });
}

/** What became of a step. */
export interface StepRecord {
  name: string;
  /** `begun`: nobody knows whether it ran. */
  state: "done" | "begun" | "undone";
  /** Of the operation, in which that happened. */
  attempt: number;
}

/**
 * The steps of a journal, in the order in which they were first heard of.
 *
 * @throws {RecordUnreadable} when it is damaged
 */
export function stepsOf(journal: Uint8Array): StepRecord[] {
  const steps = new Map<string, StepRecord>();
  for (const { head } of entriesOf(journal)) {
    if (head.kind === "failed") continue;
    const { name, kind: state, attempt } = head;
    const known = steps.get(name);
    // What is written twice, because the reply of the first write was lost, counts once.
    const isNews = known === undefined || (known.state !== state && state !== "begun");
    if (isNews) steps.set(name, { name, state, attempt });
  }
  return [...steps.values()];
}

/** What an operation has failed with for good, if it has. */
export function failureIn(journal: Uint8Array = EMPTY): Error | undefined {
  for (const { head } of entriesOf(journal)) {
    if (head.kind !== "failed") continue;
    return Object.assign(new Error(head.message), { name: head.name });
  }
  return undefined;
}

function damaged(cause?: unknown): RecordUnreadable {
  return new RecordUnreadable("The journal of an operation's steps is damaged", { cause });
}
