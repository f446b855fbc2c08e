// The SQL of the MySQL store's queue (EN-7, EN-8), in the manner of `statements.ts`.

import type { AttemptToken, ItemClaim, ItemEnding, ItemToken, QueueItem } from "../../store.ts";
import { idsOfOperation } from "../queue-checks.ts";
import { ITEM_STATE_CODES, KIND_CODES, writtenBy } from "../sql-item.ts";
import type { MysqlTables } from "./schema.ts";
import { bytes, each, hexadecimal, integer, NOW, RUNNABLE, table, text } from "./statements.ts";

const { waiting: WAITING, done: DONE, dead: DEAD } = ITEM_STATE_CODES;

const EXPIRED = `q.expires_at <= ${NOW}`;
const LIVE = `(q.expires_at IS NULL OR q.expires_at > ${NOW})`;
/** Somebody is at it. */
const CLAIMED = `(q.owner IS NOT NULL AND q.due_at > ${NOW})`;

/** Read by `itemRow()`. */
const COLUMNS = `LOWER(HEX(q.id)) AS id, LOWER(HEX(q.operation)) AS operation, q.kind, q.name, q.scope,
  q.\`key\`, q.place, q.state, q.started, q.finished, q.due_at - ${NOW} AS due, q.error,
  q.created_at AS created, ${NOW} - q.created_at AS age, q.expires_at - ${NOW} AS expires`;

/** An item that was seen to be due. */
export interface Seen {
  id: string;
  started: number;
}

export interface ItemFilter {
  kind: number | undefined;
  state: number | undefined;
  name: string | undefined;
  operation: string | undefined;
  /** Where the page before ended. */
  before: { created: number; id: string } | undefined;
  limit: number;
}

export type QueueSql = ReturnType<typeof queueStatementsFor>;

export function queueStatementsFor({ queue, records }: MysqlTables) {
  return {
    /**
     * With an attempt, only beside its record, which is locked until all is written, so that nobody can
     * take it over in between (SM-17). What is there stays as it is; its end comes last, because all
     * other columns are chosen by it.
     */
    add: (items: readonly QueueItem[], dueInMs: number, attempt: AttemptToken | undefined) =>
      `INSERT INTO ${queue} (id, operation, kind, name, scope, \`key\`, place, turn, state, started,
        finished, owner, due_at, created_at, expires_at, error, payload)
      SELECT item.id, item.operation, item.kind, item.name, item.scope, item.ownkey, item.place,
        item.place, ${WAITING}, 0, 0, NULL, ${NOW} + ${integer(dueInMs)}, ${NOW}, NULL, NULL,
        SUBSTR(piece.payloads, item.start, item.length)
      FROM ${table(itemRows(items))}
        STRAIGHT_JOIN (SELECT ${bytes(Buffer.concat(items.map(({ payload }) => payload)))} AS payloads)
          AS piece
        ${attempt ? besideRecord(records, attempt) : "WHERE TRUE"}
      ON DUPLICATE KEY UPDATE ${anew(queue)}`,

    isRunning: ({ id, attempt, owner }: AttemptToken) =>
      `SELECT 1 AS running FROM ${records} AS r
      WHERE r.id = ${hexadecimal(id)} AND ${RUNNABLE} AND r.attempt = ${integer(attempt)}
        AND r.owner = ${hexadecimal(owner)}`,

    /**
     * What is due, of all names together, with no earlier one of its operation before it. Payloads come
     * last, for those that are chosen.
     */
    due: ({ kind, names, limit }: ItemClaim, offset: number) => {
      const ofName = (name: string) => `(SELECT q.id, q.due_at
        FROM ${queue} AS q FORCE INDEX (due)
        WHERE q.kind = ${KIND_CODES[kind]} AND q.name = ${text(name)} AND q.due_at <= ${NOW}
          AND q.place <= (SELECT MIN(other.turn) FROM ${queue} AS other FORCE INDEX (turn)
            WHERE other.operation = q.operation AND other.kind = q.kind)
        ORDER BY q.due_at LIMIT ${integer(offset + limit)})`;
      return `SELECT ${COLUMNS}, q.payload
      FROM (SELECT first.id, first.due_at FROM (${names.map(ofName).join(" UNION ALL ")}) AS first
          ORDER BY first.due_at LIMIT ${integer(limit)} OFFSET ${integer(offset)}) AS due
        STRAIGHT_JOIN ${queue} AS q ON q.id = due.id
      ORDER BY due.due_at`;
    },

    /** Those that are still as they were seen. */
    claim: (seen: readonly Seen[], { leaseMs, owner }: ItemClaim) =>
      `UPDATE ${queue} AS q FORCE INDEX (PRIMARY)
      SET q.due_at = ${NOW} + ${integer(leaseMs)}, q.started = q.started + 1,
        q.owner = ${hexadecimal(owner)}
      WHERE q.id IN (${seen.map(({ id }) => hexadecimal(id))})
        AND (q.id, q.started) IN (${seen.map(
          ({ id, started }) => `(${hexadecimal(id)}, ${integer(started)})`,
        )})
        AND q.due_at <= ${NOW}`,

    /** Of those that were seen, whoever's claim they are now. */
    owners: (ids: readonly string[]) =>
      `SELECT LOWER(HEX(q.id)) AS id, q.started, LOWER(HEX(q.owner)) AS owner, q.receipt
      FROM ${queue} AS q WHERE q.id IN (${ids.map(hexadecimal)})`,

    renew: (tokens: readonly ItemToken[], leaseMs: number) =>
      `UPDATE ${queue} AS q FORCE INDEX (PRIMARY) SET q.due_at = ${NOW} + ${integer(leaseMs)}
      WHERE ${areClaimed(tokens)}`,

    /** The receipt tells afterwards which of many this very statement wrote. */
    finish: (endings: readonly ItemEnding[], receipt: number) => {
      const written = endings.map((ending) => ({ id: ending.id, ...writtenBy(ending) }));
      type Written = (typeof written)[number];
      const ofEach = (literal: (one: Written) => string | number) => each(written, literal, "q");
      const waits = ({ state }: Written) => state === WAITING;
      return `UPDATE ${queue} AS q FORCE INDEX (PRIMARY)
      SET q.turn = ${ofEach((one) => (waits(one) ? "q.place" : "NULL"))},
        q.due_at = ${NOW} + ${ofEach((one) => integer(waits(one) ? one.afterMs : null))},
        q.expires_at = ${NOW} + ${ofEach((one) => integer(waits(one) ? null : one.afterMs))},
        q.error = COALESCE(${ofEach(({ error }) => text(error))}, q.error),
        q.owner = NULL, q.started = q.started - ${ofEach(({ counts }) => Number(!counts))},
        q.finished = q.finished + ${ofEach(({ counts }) => Number(counts))}, q.receipt = ${integer(receipt)},
        q.state = ${ofEach(({ state }) => state)}
      WHERE ${areClaimed(endings)}`;
    },

    find: (id: string) =>
      `SELECT ${COLUMNS}, q.payload FROM ${queue} AS q WHERE q.id = ${hexadecimal(id)} AND ${LIVE}`,

    revive: (id: string, receipt: number) =>
      `UPDATE ${queue} AS q
      SET q.due_at = ${NOW}, q.expires_at = NULL, q.turn = q.place, q.started = 0, q.finished = 0,
        q.owner = NULL, q.receipt = ${integer(receipt)}, q.state = ${WAITING}
      WHERE q.id = ${hexadecimal(id)} AND q.state <> ${DONE} AND ${LIVE} AND NOT ${CLAIMED}`,

    remove: (id: string) =>
      `DELETE q FROM ${queue} AS q
      WHERE q.id = ${hexadecimal(id)} AND ${LIVE} AND NOT ${CLAIMED}`,

    list: (filter: ItemFilter) => list(queue, filter),

    /** What is done is counted from an index alone. */
    stats: `SELECT q.kind, ${DONE} AS state, COUNT(*) AS items, NULL AS oldest
      FROM ${queue} AS q FORCE INDEX (expiry)
      WHERE q.expires_at > ${NOW} AND q.state = ${DONE} GROUP BY q.kind
      UNION ALL
      SELECT q.kind, q.state, COUNT(*), MAX(IF(q.due_at <= ${NOW}, ${NOW} - q.due_at, NULL))
      FROM ${queue} AS q FORCE INDEX (state)
      WHERE q.state IN (${WAITING}, ${DEAD}) AND ${LIVE} GROUP BY q.kind, q.state`,

    /** Takes no lock, so that sweepers and claims do not wait for each other. */
    findExpired: (limit: number) =>
      `SELECT LOWER(HEX(q.id)) AS id FROM ${queue} AS q FORCE INDEX (expiry)
      WHERE ${EXPIRED} ORDER BY q.expires_at LIMIT ${integer(limit)}`,

    forgetExpired: (ids: readonly string[]) =>
      `DELETE q FROM ${queue} AS q WHERE q.id IN (${ids.map(hexadecimal)}) AND ${EXPIRED}`,
  };
}

function itemRows(items: readonly QueueItem[]) {
  let start = 1;
  return items.map((item) => {
    const row = {
      id: hexadecimal(item.id),
      operation: hexadecimal(item.operation),
      kind: KIND_CODES[item.kind],
      name: text(item.name),
      scope: text(item.scope),
      ownkey: text(item.key),
      place: integer(item.place),
      start,
      length: item.payload.byteLength,
    };
    start += item.payload.byteLength;
    return row;
  });
}

function besideRecord(records: string, { id, attempt, owner }: AttemptToken): string {
  return `STRAIGHT_JOIN ${records} AS r ON r.id = ${hexadecimal(id)} AND ${RUNNABLE}
          AND r.attempt = ${integer(attempt)} AND r.owner = ${hexadecimal(owner)}
        LOCK IN SHARE MODE`;
}

/** In an upsert: an expired item begins anew, as if it had not been there. */
function anew(queue: string): string {
  const columns = [
    ...["operation", "kind", "name", "scope", "`key`", "place", "turn", "state", "started"],
    ...["finished", "owner", "due_at", "created_at", "error", "payload", "expires_at"],
  ];
  const isExpired = `${queue}.expires_at <= ${NOW}`;
  return columns
    .map((column) => `${queue}.${column} = IF(${isExpired}, VALUES(${column}), ${queue}.${column})`)
    .join(", ");
}

/** SM-17, for each by itself. */
function areClaimed(tokens: readonly ItemToken[]): string {
  const claimed = tokens.map(
    ({ id, started, owner }) => `(${hexadecimal(id)}, ${integer(started)}, ${hexadecimal(owner)})`,
  );
  return `q.id IN (${tokens.map(({ id }) => hexadecimal(id))})
        AND (q.id, q.started, q.owner) IN (${claimed}) AND q.state = ${WAITING}`;
}

/** One index lists each state; an operation's are found by their ids. */
function list(queue: string, filter: ItemFilter): string {
  const { kind, state, name, operation, before, limit } = filter;
  const wanted = [LIVE];
  if (kind !== undefined) wanted.push(`q.kind = ${kind}`);
  if (name !== undefined) wanted.push(`q.name = ${text(name)}`);
  if (before !== undefined) {
    const created = integer(before.created);
    wanted.push(`q.created_at <= ${created}`);
    wanted.push(`(q.created_at < ${created} OR q.id < ${hexadecimal(before.id)})`);
  }
  if (operation !== undefined) {
    wanted.push(`q.id BETWEEN ${idsOfOperation(operation).map(hexadecimal).join(" AND ")}`);
    wanted.push(`q.operation = ${hexadecimal(operation)}`);
  }
  const index = operation === undefined ? "state" : "PRIMARY";
  const ofState = (code: number) => `(SELECT ${COLUMNS} FROM ${queue} AS q FORCE INDEX (${index})
    WHERE q.state = ${code} AND ${wanted.join(" AND ")}
    ORDER BY q.created_at DESC, q.id DESC LIMIT ${integer(limit)})`;
  const states = state === undefined ? [WAITING, DONE, DEAD] : [state];
  return `${states.map(ofState).join(" UNION ALL ")}
    ORDER BY created DESC, id DESC LIMIT ${integer(limit)}`;
}
