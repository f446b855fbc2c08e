// The states of records and the fates of requests: a word, and a colour beside it for those who see it.

import type { RecordState } from "semel";
import type { QueuedRow, QueueState, Sighting } from "../../../src/admin/contract.ts";

const STATES: Record<RecordState, [word: string, tone: string]> = {
  running: ["running", "running"],
  completed: ["completed", "executed"],
  held: ["held", "held"],
  open: ["released", "muted"],
  void: ["void", "muted"],
};

export function StateBadge({ state }: { state: RecordState }) {
  const [word, tone] = STATES[state];
  return <Badge word={word} tone={tone} />;
}

const QUEUE_STATES: Record<QueueState, [word: string, tone: string]> = {
  waiting: ["waiting", "running"],
  done: ["done", "executed"],
  dead: ["given up", "failed"],
};

export function queueWord({ state, kind }: Pick<QueuedRow, "state" | "kind">): string {
  return state === "done" && kind === "effect" ? "delivered" : QUEUE_STATES[state][0];
}

export function queueTone(state: QueueState): string {
  return QUEUE_STATES[state][1];
}

export function QueueBadge({ item }: { item: QueuedRow }) {
  return <Badge word={queueWord(item)} tone={queueTone(item.state)} />;
}

const FATES: Record<Sighting["what"], [word: string, tone: string]> = {
  begun: ["began", "running"],
  executed: ["executed", "executed"],
  replayed: ["replayed", "replayed"],
  released: ["released", "failed"],
  held: ["held", "held"],
  superseded: ["superseded", "failed"],
  unrecorded: ["not recorded", "failed"],
  busy: ["in progress", "refused"],
  mismatch: ["key reused", "refused"],
  "outcome-unknown": ["refused: held", "refused"],
  void: ["refused: void", "refused"],
  late: ["refused: late", "refused"],
  failed: ["store failed", "failed"],
  step: ["step", "muted"],
  "lease-lost": ["lease lost", "failed"],
  decided: ["decided", "held"],
  task: ["durable operation", "muted"],
  effect: ["effect", "muted"],
};

export function fateWord(what: Sighting["what"]): string {
  return FATES[what][0];
}

export function fateTone(what: Sighting["what"]): string {
  return FATES[what][1];
}

export function FateBadge({ what }: { what: Sighting["what"] }) {
  return <Badge word={fateWord(what)} tone={fateTone(what)} />;
}

function Badge({ word, tone }: { word: string; tone: string }) {
  return <span class={`badge tone-${tone}`}>{word}</span>;
}
