// What earlier attempts of an operation left of its steps.

import type { StoredRecord } from "../store.ts";
import { type Entry, type EntryHead, entriesOf } from "./journal.ts";

export interface Saved {
  done: Map<string, Entry & { head: DoneHead }>;
  /** Steps by their places, where none ran beside another. */
  places: Map<number, string>;
  begun: Map<string, number>;
  undone: Set<string>;
  /** Steps that are to be undone should the operation fail for good. */
  toUndo: string[];
  bytes: number;
  /** The record's age when it was looked at, and when that was. */
  ageMs: number;
  readAt: number;
}

type DoneHead = Extract<EntryHead, { kind: "done" }>;

const EMPTY = new Uint8Array(0);

/** Whether a step is saved in a record. */
export function isDone(record: StoredRecord | undefined, name: string): boolean {
  return entriesOf(record?.journal ?? EMPTY).some(
    ({ head }) => head.kind === "done" && head.name === name,
  );
}

/** What is written twice, because the reply of the first write was lost, counts once. */
export function savedOf(record: StoredRecord | undefined, readAt: number): Saved {
  const journal = record?.journal ?? EMPTY;
  const done: Saved["done"] = new Map();
  const begun = new Map<string, number>();
  const undone = new Set<string>();
  for (const { head, value } of entriesOf(journal)) {
    switch (head.kind) {
      case "undone":
        undone.add(head.name);
        break;
      case "begun":
        if (!begun.has(head.name)) begun.set(head.name, head.ageMs);
        break;
      case "done":
        if (!done.has(head.name)) done.set(head.name, { head, value });
    }
  }
  const heads = [...done.values()].map(({ head }) => head);
  const isSequence = heads.every(({ alone }) => alone);
  const places = new Map(isSequence ? heads.map(({ place, name }) => [place, name]) : []);
  const toUndo = heads
    .filter(({ name, undo }) => undo && !undone.has(name))
    .map(({ name }) => name);
  const ageMs = record?.ageMs ?? 0;
  return { done, places, begun, undone, toUndo, bytes: journal.byteLength, ageMs, readAt };
}
