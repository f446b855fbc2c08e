// Listings of the Redis store's queue, from the lists of its shards: what waits or is dead and kept, newest
// first; then what has an end, the latest end first, which with one retention for all is the order in
// which they were done.

import { InvalidOption, RecordUnreadable } from "../../errors.ts";
import type { ItemPage, ItemQuery, StoredItem } from "../../store.ts";
import { idsOfOperation } from "../queue-checks.ts";
import type { RedisBatches } from "./batches.ts";
import { TIME_MAX } from "./lua.ts";
import { KIND_CODES } from "./queue-packing.ts";
import { QUEUE_SCRIPTS } from "./queue-scripts.ts";

/** A page looks at no more places than this: it may then be short, and its cursor leads on. */
const PLACES_MAX = 10_000;
/** What is looked through at once for the items of one operation. */
const PLACES_TOGETHER = 1_000;

/** The lists of a section, with the state of what each holds. */
const SECTIONS = {
  kept: [
    ["waiting", "waiting"],
    ["dead", "dead"],
  ],
  ending: [
    ["done", "done"],
    ["fading", "dead"],
  ],
} as const;

type Section = keyof typeof SECTIONS;

interface Place {
  readonly id: string;
  /** Of its creation or of its end. */
  readonly time: number;
}

const START: Place = { id: "", time: TIME_MAX };

/** Reads items, in the order that is asked for; `undefined` for what is gone. */
type ReadItems = (ids: readonly string[]) => Promise<(StoredItem | Error | undefined)[]>;

export async function listItems(
  batches: RedisBatches,
  keys: readonly string[],
  readItems: ReadItems,
  query: ItemQuery,
): Promise<ItemPage> {
  const { limit, name, operation, cursor } = query;
  let { section, from } =
    cursor === undefined ? { section: "kept" as Section, from: START } : parseCursor(cursor);
  const items: StoredItem[] = [];
  for (let looked = 0; ; ) {
    const lists = listsOf(section, query);
    const wanted = operation === undefined ? limit - items.length : PLACES_TOGETHER;
    const found = await placesAfter(batches, keys, lists, from, wanted);
    const { places, isCut } = placesFor(found.places, operation, limit - items.length);
    const isLast = found.isLast && !isCut;
    for (const item of await readItems(places.map(({ id }) => id))) {
      if (item instanceof RecordUnreadable || item === undefined) continue;
      if (item instanceof Error) throw item;
      // What has moved on since is met again where it is now.
      if (isListed(item, section, query) && (name === undefined || item.name === name)) {
        items.push(item);
      }
    }
    looked += found.places.length;
    from = (isCut ? places : found.places).at(-1) ?? from;
    if (isLast && section === "ending") return { items };
    if (isLast) [section, from] = ["ending", START];
    if (items.length === limit || looked >= PLACES_MAX) {
      return { items, cursor: `${section}-${from.time}-${from.id}` };
    }
  }
}

/** The next places of lists, in order, and whether there are no more. */
async function placesAfter(
  batches: RedisBatches,
  keys: readonly string[],
  lists: readonly string[],
  from: Place,
  wanted: number,
): Promise<{ places: Place[]; isLast: boolean }> {
  if (lists.length === 0) return { places: [], isLast: true };
  // Ids are spread evenly over the shards.
  const ofEach = Math.min(wanted, Math.ceil((2 * wanted) / keys.length) + 4) + 1;
  const args = ["0", "", String(ofEach), String(from.time), from.id, ...lists];
  const groups = batches.isCluster ? keys.map((key) => [key]) : [keys];
  const replies = await Promise.all(
    groups.map((group) => batches.run(QUEUE_SCRIPTS.page, group, args)),
  );
  const found = replies.flatMap(({ answers }) =>
    answers.map((reply) => placesOf(reply as Buffer[])),
  );
  // Beyond the end of a list that was cut off, others would be out of order.
  const ends = found.filter((list) => list.length === ofEach).map((list) => list.at(-1)!);
  const horizon = ends.sort(byPlace)[0];
  const places = found.flat().sort(byPlace);
  const sure =
    horizon === undefined ? places : places.filter((place) => byPlace(place, horizon) <= 0);
  return {
    places: sure.slice(0, wanted),
    isLast: horizon === undefined && sure.length <= wanted,
  };
}

function placesOf(reply: readonly Buffer[]): Place[] {
  const places: Place[] = [];
  for (let at = 0; at < reply.length; at += 2) {
    places.push({ id: reply[at]!.toString(), time: Number(reply[at + 1]) });
  }
  return places;
}

function byPlace(one: Place, other: Place): number {
  if (one.time !== other.time) return other.time - one.time;
  return one.id < other.id ? 1 : one.id > other.id ? -1 : 0;
}

/** The lists of a section that hold what is asked for. */
function listsOf(section: Section, { kind, state }: ItemQuery): string[] {
  const kinds = kind === undefined ? Object.values(KIND_CODES) : [KIND_CODES[kind]];
  return SECTIONS[section]
    .filter(([, held]) => state === undefined || state === held)
    .flatMap(([list]) => kinds.map((code) => `items:${code}:${list}`));
}

function isListed(item: StoredItem, section: Section, { state, operation }: ItemQuery): boolean {
  const isEnding = item.expiresInMs !== null;
  return (
    isEnding === (section === "ending") &&
    (state === undefined || item.state === state) &&
    (operation === undefined || item.operation === operation)
  );
}

/** Of an operation's items the ids have their beginning in common: the others need not be read. */
function placesFor(places: Place[], operation: string | undefined, wanted: number) {
  if (operation === undefined) return { places, isCut: false };
  const [first, last] = idsOfOperation(operation);
  const own = places.filter(({ id }) => first <= id && id <= last);
  return { places: own.slice(0, wanted), isCut: own.length > wanted };
}

function parseCursor(cursor: string): { section: Section; from: Place } {
  const parts = /^(kept|ending)-(\d{1,14})-([0-9a-f]{32}|)$/.exec(cursor);
  if (!parts) {
    throw new InvalidOption("`cursor` is not one that a previous page of this list ended with");
  }
  return { section: parts[1] as Section, from: { time: Number(parts[2]), id: parts[3]! } };
}
