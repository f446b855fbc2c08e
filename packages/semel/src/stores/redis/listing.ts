// Listings, statistics and the sweep of the Redis store, from the indexes of its shards. An index
// names records; what they are is read from the records themselves, and a name whose record is gone
// is forgotten.

import { InvalidOption, RecordUnreadable } from "../../errors.ts";
import type {
  ListPage,
  ListQuery,
  RecordId,
  RecordState,
  StoredRecord,
  StoreStats,
} from "../../store.ts";
import type { Question, RedisBatches, ScriptValue } from "./batches.ts";
import * as scripts from "./listing-scripts.ts";
import { CODES, FINISHED_SCORES, TIME_MAX } from "./lua.ts";
import { assertId, packPlaces, unpackRecord } from "./packing.ts";

/** A page looks at no more places than this: it may then be short, and its cursor leads on. */
const PLACES_MAX = 10_000;
/** So many records are read by one command. */
const CHUNK = 200;
/** So many places are walked at a time where many are looked at. */
const STRIDE = 1_000;

/**
 * The ranges of an index in the order of a listing: what is running or held, newest first; then what
 * is finished, by the end of its life, the latest first, which with one retention for all is the
 * order of completion.
 */
const SECTIONS = {
  active: [0],
  finished: [FINISHED_SCORES.completed, FINISHED_SCORES.open, FINISHED_SCORES.void],
} as const;

type Section = keyof typeof SECTIONS;

/** A record as an index knows it: by its creation, or by the end of its life. */
interface Place {
  readonly id: RecordId;
  readonly time: number;
}

interface Found {
  readonly place: Place;
  readonly isGone: boolean;
  /** `undefined`: gone, or damaged, so that it does not hide the others. */
  readonly record: StoredRecord | undefined;
  readonly now: number;
}

const GLANCE: Question<Place, Found> = {
  script: scripts.glance,
  assert: assertId,
  pack: () => NOTHING,
  answer: (place, value, { now }) => ({
    place,
    isGone: value === CODES.no,
    record: readable(place.id, value, now),
    now,
  }),
};

/** Whether a place was one of a record that is gone, and is itself gone now. */
const PRUNE: Question<Place, boolean> = {
  script: scripts.prune,
  assert: assertId,
  pack: packPlaces,
  answer: (_, value) => value === CODES.done,
};

const NOTHING = Buffer.alloc(0);

/** Before every place of a section. */
const START: Place = { id: "", time: TIME_MAX };

export class RedisListing {
  readonly #batches: RedisBatches;
  /** Where the last sweep stopped looking at what is running or held. */
  #swept = START;

  constructor(batches: RedisBatches) {
    this.#batches = batches;
  }

  async list(query: ListQuery): Promise<ListPage> {
    const sections = sectionsOf(query.state);
    let { section, from } =
      query.cursor === undefined
        ? { section: sections[0]!, from: START }
        : parseCursor(query.cursor);
    const records: StoredRecord[] = [];
    let wanted = query.limit + 1;
    for (let seen = 0; seen < PLACES_MAX; ) {
      const ranges = rangesOf(section, query.state);
      const { places, isLast } = await this.#places(ranges, from, wanted);
      // Where few are wanted records, more are looked at in one go.
      wanted = Math.min(4 * wanted, STRIDE);
      for (const { place, record, now } of await this.#read(places)) {
        if (record && isWanted(record, section, query, now)) {
          if (records.length === query.limit) return { records, cursor: cursorOf(section, from) };
          records.push(record);
        }
        from = place;
      }
      seen += places.length;
      if (!isLast) continue;
      const next = sections[sections.indexOf(section) + 1];
      if (next === undefined) return { records };
      [section, from] = [next, START];
    }
    return { records, cursor: cursorOf(section, from) };
  }

  async stats(): Promise<StoreStats> {
    const states = { running: 0, completed: 0, held: 0, open: 0, void: 0 };
    for (const counts of await this.#batches.askIndexes(scripts.tally, [""])) {
      states.completed += Number(counts[0]);
      states.open += Number(counts[1]);
      states.void += Number(counts[2]);
    }
    let oldestHeldMs: number | null = null;
    let from = START;
    for (let isLast = false; !isLast; ) {
      const page = await this.#places(SECTIONS.active, from, STRIDE);
      for (const { place, record, now } of await this.#read(page.places)) {
        from = place;
        const state = record && listedState(record);
        if (state !== "running" && state !== "held") continue;
        states[state]++;
        if (state === "held") oldestHeldMs = Math.max(oldestHeldMs ?? 0, heldMs(record!, now));
      }
      isLast = page.isLast;
    }
    return { states, oldestHeldMs, bytes: null };
  }

  /** Forgets the places of records that have ended: Redis removes the records by itself. */
  async sweep(limit: number): Promise<number> {
    let removed = 0;
    for (const index of this.#batches.indexes) {
      for (let swept = 1; swept > 0 && removed < limit; removed += swept) {
        const args = ["0", String(limit - removed)];
        const { answers } = await this.#batches.run(scripts.sweep, [index], args);
        swept = Number(answers[0]);
      }
    }
    if (removed >= limit) return removed;
    // An active place does not tell its record's end; a few are looked at, in turn.
    const { places, isLast } = await this.#places(SECTIONS.active, this.#swept, limit - removed);
    this.#swept = isLast ? START : (places.at(-1) ?? START);
    return removed + (await this.#prune(places));
  }

  /** Of the places after one, so many that at least the next are among them, in order. */
  async #places(
    ranges: readonly number[],
    from: Place,
    wanted: number,
  ): Promise<{ places: Place[]; isLast: boolean }> {
    // Ids are spread evenly over the indexes.
    const ofEach = Math.min(wanted, Math.ceil((2 * wanted) / this.#batches.indexes.length) + 4);
    const bound = Buffer.from(from.id, "hex");
    const found = ranges.map(async (range) => {
      const args = [String(ofEach), String(range + from.time), String(range), bound];
      const replies = await this.#batches.askIndexes(scripts.page, args);
      return replies.map(([reply]) => placesOf(reply as Buffer[], range));
    });
    const lists = (await Promise.all(found)).flat();
    // Beyond the end of a list that was cut off, others would be out of order.
    const ends = lists.filter((list) => list.length === ofEach).map((list) => list.at(-1)!);
    const horizon = ends.sort(byPlace)[0];
    const places = lists.flat().sort(byPlace);
    if (horizon === undefined)
      return { places: places.slice(0, wanted), isLast: places.length <= wanted };
    const sure = places.filter((place) => byPlace(place, horizon) <= 0);
    return { places: sure.slice(0, wanted), isLast: false };
  }

  async #read(places: readonly Place[]): Promise<Found[]> {
    const found: Found[] = [];
    for (let at = 0; at < places.length; at += CHUNK) {
      const chunk = await this.#askAll(GLANCE, places.slice(at, at + CHUNK));
      await this.#prune(chunk.filter(({ isGone }) => isGone).map(({ place }) => place));
      found.push(...chunk);
    }
    return found;
  }

  async #prune(places: readonly Place[]): Promise<number> {
    let pruned = 0;
    for (let at = 0; at < places.length; at += CHUNK) {
      const answers = await this.#askAll(PRUNE, places.slice(at, at + CHUNK));
      pruned += answers.filter((isPruned) => isPruned).length;
    }
    return pruned;
  }

  /** Of all shards; what fails for one place fails. */
  async #askAll<Answer>(question: Question<Place, Answer>, places: Place[]): Promise<Answer[]> {
    const answers = await this.#batches.askApart(question, places);
    const failed = answers.find((answer) => answer instanceof Error);
    if (failed) throw failed;
    return answers as Answer[];
  }
}

function placesOf(reply: readonly Buffer[], range: number): Place[] {
  const places: Place[] = [];
  for (let at = 0; at < reply.length; at += 2) {
    places.push({ id: reply[at]!.toString("hex"), time: Number(reply[at + 1]) - range });
  }
  return places;
}

function byPlace(one: Place, other: Place): number {
  if (one.time !== other.time) return other.time - one.time;
  return one.id < other.id ? 1 : one.id > other.id ? -1 : 0;
}

function sectionsOf(state: RecordState | undefined): Section[] {
  if (state === undefined) return ["active", "finished"];
  return [sectionOf(state)];
}

function sectionOf(state: RecordState): Section {
  return state === "running" || state === "held" ? "active" : "finished";
}

function rangesOf(section: Section, state: RecordState | undefined): readonly number[] {
  if (section === "active" || state === undefined) return SECTIONS[section];
  return [FINISHED_SCORES[state as keyof typeof FINISHED_SCORES]];
}

/** A record that moved on since its place was looked up is met again at its new one. */
function isWanted(record: StoredRecord, section: Section, query: ListQuery, now: number): boolean {
  const { scope, state, olderThanMs } = query;
  return (
    sectionOf(record.state) === section &&
    (scope === undefined || record.scope === scope) &&
    (state === undefined || listedState(record) === state) &&
    (olderThanMs === undefined || now - record.createdAt >= olderThanMs)
  );
}

/** Lapsed ones that would become held count as held. */
function listedState({ state, onCrash, leaseRemainingMs }: StoredRecord): RecordState {
  const isLapsed = state === "running" && leaseRemainingMs! <= 0;
  return isLapsed && onCrash !== "rerun" ? "held" : state;
}

function heldMs({ state, updatedAt, leaseRemainingMs }: StoredRecord, now: number): number {
  return state === "held" ? now - updatedAt : -leaseRemainingMs!;
}

function readable(id: RecordId, value: ScriptValue, now: number): StoredRecord | undefined {
  if (!(value instanceof Uint8Array)) return undefined;
  try {
    return unpackRecord(id, value, now, "result");
  } catch (error) {
    if (error instanceof RecordUnreadable) return undefined;
    throw error;
  }
}

function cursorOf(section: Section, { time, id }: Place): string {
  return `${section}-${time}-${id}`;
}

function parseCursor(cursor: string): { section: Section; from: Place } {
  const parts = /^(active|finished)-(\d{1,14})-([0-9a-f]{32}|)$/.exec(cursor);
  if (!parts) {
    throw new InvalidOption("`cursor` is not one that a previous page of this list ended with");
  }
  return { section: parts[1] as Section, from: { time: Number(parts[2]), id: parts[3]! } };
}
