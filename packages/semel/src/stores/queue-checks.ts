// What the queues of all stores check before they ask, so that each refuses the same and with the
// same words.

import { InvalidOption } from "../errors.ts";
import { assertInteger, assertOneOf, shown } from "../options.ts";
import type {
  AttemptToken,
  ItemClaim,
  ItemEnding,
  ItemQuery,
  ItemToken,
  QueueItem,
  QueueKind,
  QueueState,
  RecordId,
} from "../store.ts";

/** The most items that one call may be about. */
export const ITEMS_MAX = 1_000;
const NAMES_MAX = 100;
export const NAME_LENGTH_MAX = 255;
/** A century. */
const DURATION_MS_MAX = 100 * 366 * 86_400_000;
const PLACE_MAX = 2 ** 31 - 1;
const HEX_ID = /^[0-9a-f]{32}$/;

export const QUEUE_KINDS = ["task", "effect"] as const satisfies readonly QueueKind[];
export const QUEUE_STATES = ["waiting", "done", "dead"] as const satisfies readonly QueueState[];

/** Digits that the ids of items and of their operation have in common. */
const COMMON_DIGITS = 8;

/** @throws {InvalidOption} */
function assertItems(items: readonly QueueItem[], attempt?: AttemptToken): void {
  assertCount(items.length, "items", 1);
  const operation = attempt?.id ?? items[0]!.operation;
  for (const item of items) {
    assertId(item.id, "id");
    assertId(item.operation, "operation");
    assertOneOf(item.kind, QUEUE_KINDS, "kind");
    assertName(item.name);
    assertInteger(item.place, "place", 0, PLACE_MAX);
    assertText(item.scope, "scope");
    assertText(item.key, "key");
    if (!(item.payload instanceof Uint8Array)) {
      throw new InvalidOption(`\`payload\` must be bytes, got ${shown(item.payload)}`);
    }
    if (item.operation !== operation) {
      throw new InvalidOption(
        attempt
          ? "Items that are added by an attempt must belong to its operation"
          : "Items that are added together must belong to one operation",
      );
    }
    if (item.id.slice(0, COMMON_DIGITS) !== operation.slice(0, COMMON_DIGITS)) {
      throw new InvalidOption(
        `The id of an item must begin with the first ${COMMON_DIGITS} digits of its operation's; \`queueItemId()\` makes such`,
      );
    }
  }
}

/** @throws {InvalidOption} */
export function assertAdding(
  items: readonly QueueItem[],
  { dueInMs, attempt }: { dueInMs: number; attempt?: AttemptToken },
): void {
  assertItems(items, attempt);
  assertDelay(dueInMs);
}

/** @throws {InvalidOption} */
export function assertClaim({ kind, names, limit, leaseMs, owner }: ItemClaim): void {
  assertOneOf(kind, QUEUE_KINDS, "kind");
  if (names.length < 1 || names.length > NAMES_MAX) {
    throw new InvalidOption(`\`names\` must be 1 to ${NAMES_MAX} names, got ${names.length}`);
  }
  for (const name of names) assertName(name);
  if (new Set(names).size < names.length) throw new InvalidOption("`names` has a name twice");
  assertInteger(limit, "limit", 1, ITEMS_MAX);
  assertInteger(leaseMs, "leaseMs", 1, DURATION_MS_MAX);
  assertId(owner, "owner");
}

/** @throws {InvalidOption} */
export function assertTokens(tokens: readonly ItemToken[]): void {
  assertCount(tokens.length, "tokens", 0);
  for (const { id, started, owner } of tokens) {
    assertId(id, "id");
    assertInteger(started, "started", 1, PLACE_MAX);
    assertId(owner, "owner");
  }
}

/** @throws {InvalidOption} */
export function assertRenewal(tokens: readonly ItemToken[], leaseMs: number): void {
  assertTokens(tokens);
  assertInteger(leaseMs, "leaseMs", 1, DURATION_MS_MAX);
}

/** @throws {InvalidOption} */
export function assertEndings(endings: readonly ItemEnding[]): void {
  assertTokens(endings);
  for (const ending of endings) {
    assertOneOf(ending.kind, ["done", "retry", "dead"], "kind");
    if (ending.kind === "retry") assertDelay(ending.dueInMs);
    else if (ending.kind === "done" || ending.retentionMs !== null) {
      assertInteger(ending.retentionMs, "retentionMs", 0, DURATION_MS_MAX);
    }
  }
}

/** @throws {InvalidOption} */
export function assertItemQuery({ kind, state, name, operation, limit }: ItemQuery): void {
  if (kind !== undefined) assertOneOf(kind, QUEUE_KINDS, "kind");
  if (state !== undefined) assertOneOf(state, QUEUE_STATES, "state");
  if (name !== undefined) assertName(name);
  if (operation !== undefined) assertId(operation, "operation");
  assertInteger(limit, "limit", 1, ITEMS_MAX);
}

/** Between which ids the items of an operation are, and those of a few others. */
export function idsOfOperation(operation: RecordId): [first: string, last: string] {
  const common = operation.slice(0, COMMON_DIGITS);
  return [common.padEnd(32, "0"), common.padEnd(32, "f")];
}

/** @throws {InvalidOption} */
export function assertId(id: unknown, option: string): asserts id is string {
  if (typeof id === "string" && HEX_ID.test(id)) return;
  throw new InvalidOption(
    `\`${option}\` must be 32 lowercase hexadecimal digits, got ${shown(id)}`,
  );
}

function assertDelay(dueInMs: unknown): void {
  assertInteger(dueInMs, "dueInMs", 0, DURATION_MS_MAX);
}

function assertCount(count: number, option: string, min: number): void {
  if (count >= min && count <= ITEMS_MAX) return;
  throw new InvalidOption(`\`${option}\` must be ${min} to ${ITEMS_MAX} at once, got ${count}`);
}

function assertName(name: unknown): void {
  assertText(name, "name");
  if (name.length >= 1 && name.length <= NAME_LENGTH_MAX) return;
  throw new InvalidOption(
    `\`name\` must have 1 to ${NAME_LENGTH_MAX} characters, got ${name.length}`,
  );
}

function assertText(text: unknown, option: string): asserts text is string {
  if (typeof text === "string" && text.isWellFormed() && !text.includes("\0")) return;
  throw new InvalidOption(
    `\`${option}\` must be well-formed Unicode without NUL characters, got ${shown(text)}`,
  );
}

/** Whether an item is handed on: its claim counts as none then. */
export function isHandOn(ending: ItemEnding): boolean {
  return ending.kind === "retry" && ending.error === null;
}
