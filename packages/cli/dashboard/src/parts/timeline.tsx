// What is known of an operation, in the order in which it happened: what the record says, its steps, and
// what this process saw.

import type { QueuedRow, RecordView, Sighting } from "../../../src/admin/contract.ts";
import { clockTime, dateTime, duration, plural, shortTime } from "../format.ts";
import { linkTo } from "../router.ts";
import { fateTone, fateWord, queueTone, queueWord } from "./badge.tsx";

interface Entry {
  at: number | undefined;
  tone: string;
  title: string;
  detail?: string | undefined;
  /** Where more is said about it. */
  href?: string;
  isAhead?: boolean;
}

export function Timeline({ view }: { view: RecordView }) {
  const entries = entriesOf(view);
  return (
    <ol class="timeline">
      {entries.map(({ at, tone, title, detail, href, isAhead }, index) => (
        <li key={index} class={`tone-${tone}${isAhead ? " is-ahead" : ""}`}>
          <span class="timeline-when" title={at === undefined ? undefined : dateTime(at)}>
            {at === undefined ? "" : shortTime(at)}
          </span>
          <span class="timeline-what">
            <b>{href ? <a href={href}>{title}</a> : title}</b>
            {detail && <span class="detail">{detail}</span>}
          </span>
        </li>
      ))}
    </ol>
  );
}

function entriesOf(view: RecordView): Entry[] {
  const { record, steps, sightings } = view;
  const first: Entry = { at: record.createdAt, tone: "running", title: "First asked for" };
  const seen = collapsed(sightings).map(entryOf);
  const state = stateEntry(record);
  // What this process saw itself, it saw at the time.
  const isSeen = sightings.some(({ what }) => what === FATE_OF[record.state]);
  const dated = [...seen, ...(isSeen ? [] : [state])].sort((one, other) => one.at - other.at);
  const earlier = earlierAttempts(record, sightings);
  const before = [first, ...earlier, ...stepEntries(steps, sightings)];
  return [...before, ...dated, ...queueEntries(view), ...aheadOf(record)];
}

/** Its durable operation and its effects, as they are now; what became of them when, only who did it saw. */
function queueEntries({ queued, hasMoreQueued }: RecordView): Entry[] {
  const entries: Entry[] = (queued ?? []).map((item) => ({
    at: undefined,
    tone: queueTone(item.state),
    title: `${item.kind === "task" ? "Durable operation" : "Effect"} ${item.name}`,
    detail: queueDetail(item),
    href: linkTo({ page: "queued", id: item.id }),
    isAhead: item.state === "waiting",
  }));
  if (hasMoreQueued) entries.push({ at: undefined, tone: "muted", title: "… and more effects" });
  return entries;
}

export function queueDetail(item: QueuedRow): string {
  const { state, attempts, unended, dueInMs, error } = item;
  const words = [queueWord(item)];
  if (attempts > 0) words.push(plural(attempts, "attempt"));
  if (state === "waiting") words.push(waitingWords(unended, dueInMs ?? 0));
  if (error !== null && state !== "done") words.push(error);
  return words.join(", ");
}

function waitingWords(unended: number, dueInMs: number): string {
  if (unended > 0 && dueInMs > 0) return `being done; tried again in ${duration(dueInMs)} if not`;
  return dueInMs > 0 ? `due in ${duration(dueInMs)}` : `due for ${duration(-dueInMs)}`;
}

const FATE_OF: Partial<Record<RecordView["record"]["state"], Sighting["what"]>> = {
  completed: "executed",
  held: "held",
  open: "released",
};

/** Attempts that only their number tells of. */
function earlierAttempts(
  { attempt, crashes }: RecordView["record"],
  sightings: readonly Sighting[],
): Entry[] {
  const begun = sightings.filter(({ what }) => what === "begun").length;
  const unseen = attempt - 1 - begun;
  if (unseen <= 0) return [];
  const crashed = crashes > 0 ? `${crashes} of all were taken over after a crash` : undefined;
  const title = `${plural(unseen, "attempt")} that ended without a result`;
  return [{ at: undefined, tone: "muted", title, detail: crashed }];
}

/** Steps of the record that this process has not seen itself; when they ran is not kept. */
function stepEntries(steps: RecordView["steps"], sightings: readonly Sighting[]): Entry[] {
  if (steps === null) {
    return [{ at: undefined, tone: "muted", title: "Its steps cannot be read here" }];
  }
  const seen = new Set(sightings.flatMap(({ what, detail }) => (what === "step" ? [detail] : [])));
  return steps
    .filter(({ name }) => !seen.has(`${name} ran`))
    .map(({ name, state, attempt }) => ({
      at: undefined,
      tone: state === "begun" ? "held" : "muted",
      title: `Step ${name}`,
      detail: `${STEP_WORDS[state]}, attempt ${attempt}`,
    }));
}

const STEP_WORDS = {
  done: "done",
  begun: "begun; nobody knows whether it ran",
  undone: "undone",
} as const;

interface Run {
  sighting: Sighting;
  times: number;
  lastAt: number;
}

/** Each of these has a name of its own. */
const NAMED: ReadonlySet<Sighting["what"]> = new Set(["step", "task", "effect", "decided"]);

/** Many replays, one after the other, are one entry. */
function collapsed(sightings: readonly Sighting[]): Run[] {
  const runs: Run[] = [];
  for (const sighting of sightings) {
    const last = runs.at(-1);
    const isMore = last?.sighting.what === sighting.what && !NAMED.has(sighting.what);
    if (isMore) {
      last.times++;
      last.lastAt = sighting.at;
    } else runs.push({ sighting, times: 1, lastAt: sighting.at });
  }
  return runs;
}

function entryOf({ sighting, times, lastAt }: Run): Entry & { at: number } {
  const { at, what, attempt, durationMs, detail } = sighting;
  const tone = fateTone(what);
  if (times > 1) {
    const title = `${capital(fateWord(what))} ${plural(times, "time")}`;
    return { at, tone, title, detail: `the last one at ${clockTime(lastAt)}` };
  }
  const took = durationMs === undefined ? undefined : `took ${duration(durationMs)}`;
  if (what === "begun") return { at, tone, title: `Attempt ${attempt} began` };
  if (what === "step") return { at, tone, title: `Step ${detail}`, detail: took };
  if (what === "task" || what === "effect") {
    return { at, tone, title: `${capital(fateWord(what))} ${detail}` };
  }
  if (what === "decided") return { at, tone, title: `Decided: ${detail}` };
  return { at, tone, title: capital(fateWord(what)), detail: detail ?? took };
}

function capital(word: string): string {
  return word.charAt(0).toUpperCase() + word.slice(1);
}

/** Where it stands. */
function stateEntry(record: RecordView["record"]): Entry & { at: number } {
  const { state, updatedAt: at, leaseRemainingMs, reason, attempt } = record;
  switch (state) {
    case "running":
      return { at, tone: "running", title: `Attempt ${attempt} runs` };
    case "held":
      return {
        at: leaseRemainingMs === null ? at : Date.now() + leaseRemainingMs,
        ...{ tone: "held", title: "Held: nobody knows whether it was applied" },
        detail: reason ?? "the lease lapsed: its process died, or stood still",
      };
    case "completed":
      return { at, tone: "executed", title: "Completed" };
    case "open":
      return { at, tone: "muted", title: "Released", detail: "the same key may run again" };
    case "void":
      return { at, tone: "muted", title: "Void: it will never run" };
  }
}

/** What will come of that by itself. */
function aheadOf({ state, leaseRemainingMs, expiresInMs }: RecordView["record"]): Entry[] {
  const isLeased = state === "running" && leaseRemainingMs !== null;
  const inMs = isLeased ? leaseRemainingMs : expiresInMs;
  if (inMs === null) return [];
  const title = isLeased ? "Its lease lapses, unless its process renews it" : "Is forgotten";
  const detail = `in ${duration(inMs)}`;
  return [{ at: Date.now() + inMs, tone: "muted", title, detail, isAhead: true }];
}
