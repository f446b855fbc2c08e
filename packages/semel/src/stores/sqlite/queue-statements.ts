// The SQL of the SQLite store's queue (EN-7, EN-8). Items are given as JSON, with their payloads in one
// piece of which each has its part, so that all of them are one statement.

import { ITEM_STATE_CODES } from "../sql-item.ts";
import type { SqliteTables } from "./schema.ts";
import { NOW, OWNED } from "./statements.ts";

const { waiting: WAITING, done: DONE } = ITEM_STATE_CODES;

const LIVE = `(expires_at IS NULL OR expires_at > ${NOW})`;
/** Somebody is at it. */
const CLAIMED = `(owner IS NOT NULL AND due_at > ${NOW})`;
/** SM-17. */
const CLAIMED_BY = `id = unhex(?) AND state = ${WAITING} AND started = ? AND owner = unhex(?)`;
const given = (name: string) => `item.value ->> '${name}'`;

/** Read by `storedItem()`. */
const COLUMNS = `position, lower(hex(id)) AS id, lower(hex(operation)) AS operation, kind, name, scope,
  key, place, state, started, finished, due_at - ${NOW} AS due, error, created_at AS created,
  ${NOW} - created_at AS age, expires_at - ${NOW} AS expires`;

const LISTED = `coalesce(?, 9223372036854775807) AND (kind = ?) IS NOT FALSE
          AND (name = ?) IS NOT FALSE AND ${LIVE}`;
const inState = (state: number | undefined) => (state === undefined ? "" : `AND state = ${state}`);

export type QueueStatements = ReturnType<typeof queueStatementsFor>;

export function queueStatementsFor(tables: SqliteTables) {
  const { records, queue } = tables;
  return {
    isRunning: `SELECT 1 FROM ${records} WHERE ${OWNED}`,

    /** An expired one is forgotten, because its place in the listing has to go with it. */
    forgetExpired: `DELETE FROM ${queue}
      WHERE id IN (SELECT unhex(${given("id")}) FROM json_each(?) AS item) AND expires_at <= ${NOW}`,

    add: `INSERT INTO ${queue} (id, operation, kind, name, scope, key, place, state, started, finished,
        due_at, created_at, payload)
      SELECT unhex(${given("id")}), unhex(${given("operation")}), ${given("kind")}, ${given("name")},
        ${given("scope")}, ${given("key")}, ${given("place")}, ${WAITING}, 0, 0, ${NOW} + ?, ${NOW},
        coalesce(substr(?, ${given("start")}, ${given("bytes")}), zeroblob(0))
      FROM json_each(?) AS item WHERE true
      ON CONFLICT (id) DO NOTHING`,

    /** Of one name, those that are due and have no earlier one of their operation before them. */
    due: `SELECT q.position, q.due_at AS due FROM ${queue} AS q INDEXED BY ${tables.queueDue}
      WHERE q.kind = ? AND q.name = ? AND q.due_at <= ${NOW} AND q.place <= (
        SELECT other.place FROM ${queue} AS other INDEXED BY ${tables.queuePlace}
        WHERE other.state = ${WAITING} AND other.operation = q.operation AND other.kind = q.kind
        ORDER BY other.place LIMIT 1)
      ORDER BY q.due_at LIMIT ?`,

    claim: `UPDATE ${queue} SET due_at = ${NOW} + ?, started = started + 1, owner = unhex(?)
      WHERE position = ? RETURNING ${COLUMNS}, payload`,

    renew: `UPDATE ${queue} SET due_at = ${NOW} + ? WHERE ${CLAIMED_BY}`,

    /** With a time to the next attempt, or with one to the end of its life. */
    finish: `UPDATE ${queue}
      SET state = ?, owner = NULL, finished = finished + 1, due_at = ${NOW} + ?,
        expires_at = ${NOW} + ?, error = coalesce(?, error)
      WHERE ${CLAIMED_BY}`,

    handOn: `UPDATE ${queue} SET owner = NULL, started = started - 1, due_at = ${NOW} + ?
      WHERE ${CLAIMED_BY}`,

    find: `SELECT ${COLUMNS}, payload FROM ${queue} WHERE id = unhex(?) AND ${LIVE}`,

    revive: `UPDATE ${queue}
      SET state = ${WAITING}, due_at = ${NOW}, expires_at = NULL, started = 0, finished = 0,
        owner = NULL
      WHERE id = unhex(?) AND ${LIVE} AND state <> ${DONE} AND NOT ${CLAIMED}`,

    remove: `DELETE FROM ${queue} WHERE id = unhex(?) AND ${LIVE} AND NOT ${CLAIMED}`,

    /** An absent filter is NULL, and a comparison with it is not false. */
    list: (state: number | undefined) => {
      const isOpen = state !== undefined && state !== DONE;
      return `SELECT ${COLUMNS} FROM ${queue} ${isOpen ? `INDEXED BY ${tables.queueOpen}` : ""}
        WHERE position < ${LISTED} ${isOpen ? `AND state <> ${DONE}` : ""} ${inState(state)}
        ORDER BY position DESC LIMIT ?`;
    },

    /** Those between two ids that are an operation's; no index but that of ids will do. */
    listOf: (state: number | undefined) =>
      `SELECT ${COLUMNS} FROM ${queue}
      WHERE id BETWEEN unhex(?) AND unhex(?) AND operation = unhex(?)
        AND +position < ${LISTED} ${inState(state)}
      ORDER BY +position DESC LIMIT ?`,

    /** Reads an index alone for what is done. */
    stats: `SELECT kind, state, count(*) AS items, NULL AS oldest
      FROM ${queue} INDEXED BY ${tables.queueEnd}
      WHERE expires_at > ${NOW} AND state = ${DONE} GROUP BY kind
      UNION ALL
      SELECT kind, state, count(*), max(iif(due_at <= ${NOW}, ${NOW} - due_at, NULL))
      FROM ${queue} INDEXED BY ${tables.queueOpen}
      WHERE state <> ${DONE} AND ${LIVE} GROUP BY kind, state`,

    sweep: `DELETE FROM ${queue} WHERE position IN (
      SELECT position FROM ${queue} WHERE expires_at <= ${NOW} ORDER BY expires_at LIMIT ?)`,
  };
}
