// The SQL of the Postgres store's queue (EN-7, EN-8): every transition is one statement, which tests the
// claim where it writes.

import { ITEM_STATE_CODES } from "../sql-item.ts";
import type { PostgresTables } from "./schema.ts";
import { after, epochMs, NOW, RUNNABLE, remaining, SESSION, sharedSession } from "./statements.ts";

const { waiting: WAITING, done: DONE } = ITEM_STATE_CODES;

const LIVE = `(q.expires_at IS NULL OR q.expires_at > ${NOW})`;
/** Not `q.state = …`: see the indexes. */
const WAITS = `q.state + 0 = ${WAITING}`;
/** Somebody is at it. */
const CLAIMED = `(q.owner IS NOT NULL AND q.due_at > ${NOW})`;

/** Read by `storedItem()`. */
const COLUMNS = `q.id, q.operation, q.kind, q.name, q.scope, q.key, q.place, q.state, q.started,
  q.finished, ${remaining("q.due_at")} AS due, q.error, ${epochMs("q.created_at")} AS created,
  round(date_part('epoch', ${NOW} - q.created_at) * 1000) AS age,
  ${remaining("q.expires_at")} AS expires`;

/** Who adds, and what: the columns of both are arrays. */
const ADDING =
  "unnest($1::uuid[], $2::integer[], $3::uuid[]) WITH ORDINALITY AS adding (id, attempt, owner, number)";
const ITEMS = `unnest($4::integer[], $5::uuid[], $6::uuid[], $7::smallint[], $8::text[], $9::text[],
    $10::text[], $11::integer[], $12::float8[], $13::integer[], $14::integer[])
  AS item (number, id, operation, kind, name, scope, key, place, due_ms, bytes_start, bytes_length)`;
const TOKENS =
  "unnest($1::uuid[], $2::integer[], $3::uuid[]) WITH ORDINALITY AS token (id, started, owner, number)";

export type QueueStatements = ReturnType<typeof queueStatementsFor>;

export function queueStatementsFor({ queue, records }: PostgresTables) {
  return {
    /**
     * Gives the numbers of those that may add. The record of an attempt is locked until all is written,
     * so that nobody can take it over in between (SM-17).
     */
    add: `WITH ${sharedSession("$16")}, running AS (
        SELECT adding.number FROM session, ${ADDING} JOIN ${records} AS r ON r.id = adding.id
        WHERE r.id = ANY ($1::uuid[]) AND ${RUNNABLE}
          AND r.attempt = adding.attempt AND r.owner = adding.owner
        ORDER BY r.id FOR NO KEY UPDATE OF r
      ), allowed AS (
        SELECT number FROM running
        UNION ALL SELECT adding.number FROM ${ADDING} WHERE adding.id IS NULL
      ), added AS (
        INSERT INTO ${queue} AS q (created_at, due_at, place, started, finished, kind, state, id,
          operation, name, scope, key, payload)
        SELECT ${NOW}, ${after("item.due_ms")}, item.place, 0, 0, item.kind, ${WAITING}, item.id,
          item.operation, item.name, item.scope, item.key,
          substring($15::bytea FROM item.bytes_start FOR item.bytes_length)
        FROM session, ${ITEMS}
        WHERE item.number IN (SELECT number FROM allowed)
        ORDER BY item.id -- so that batches lock in one order and cannot deadlock
        ON CONFLICT (id) DO UPDATE
        SET created_at = excluded.created_at, due_at = excluded.due_at, expires_at = NULL,
          place = excluded.place, started = 0, finished = 0, kind = excluded.kind,
          state = excluded.state, operation = excluded.operation, owner = NULL,
          name = excluded.name, scope = excluded.scope, key = excluded.key, error = NULL,
          payload = excluded.payload
        WHERE q.expires_at <= ${NOW}
      )
      SELECT number FROM allowed`,

    /**
     * Of each name the first that are due, past what others are just looking at; of those, the first of
     * all. What its place is compared with is a query of its own for each: a join might be made by
     * reading all that waits. Nothing is asked of \`state\`, which would lead to another index.
     */
    claim: `WITH ${SESSION}, due AS MATERIALIZED (
        SELECT first.id, first.due_at
        FROM session, unnest($2::text[]) AS asked (name) CROSS JOIN LATERAL (
          SELECT q.id, q.due_at FROM ${queue} AS q
          WHERE q.kind = $1::smallint AND q.name = asked.name AND q.due_at <= ${NOW}
            AND q.place <= (
              SELECT other.place FROM ${queue} AS other
              WHERE other.state = ${WAITING} AND other.operation = q.operation AND other.kind = q.kind
              ORDER BY other.place LIMIT 1)
          ORDER BY q.due_at LIMIT $3::integer FOR UPDATE SKIP LOCKED
        ) AS first
        ORDER BY first.due_at LIMIT $3::integer
      ), claimed AS (
        UPDATE ${queue} AS q
        SET due_at = ${after("$4::float8")}, started = q.started + 1, owner = $5::uuid
        WHERE q.id = ANY (ARRAY(SELECT id FROM due))
        RETURNING ${COLUMNS}, q.payload
      )
      SELECT claimed.* FROM claimed JOIN due USING (id) ORDER BY due.due_at`,

    renew: `WITH ${sharedSession("$5")}
      UPDATE ${queue} AS q SET due_at = ${after("$4::float8")}
      FROM session, ${TOKENS}
      WHERE q.id = token.id AND ${WAITS}
        AND q.started = token.started AND q.owner = token.owner
      RETURNING token.number`,

    finish: `WITH ${sharedSession("$7")}
      UPDATE ${queue} AS q
      SET state = ending.state, owner = NULL,
        started = q.started - (ending.state = ${WAITING} AND ending.error IS NULL)::integer,
        finished = q.finished + (ending.state <> ${WAITING} OR ending.error IS NOT NULL)::integer,
        error = coalesce(ending.error, q.error),
        due_at = CASE WHEN ending.state = ${WAITING} THEN ${after("ending.after_ms")} END,
        expires_at = CASE WHEN ending.state <> ${WAITING} THEN ${after("ending.after_ms")} END
      FROM session, unnest($1::uuid[], $2::integer[], $3::uuid[], $4::smallint[], $5::float8[],
        $6::text[]) WITH ORDINALITY AS ending (id, started, owner, state, after_ms, error, number)
      WHERE q.id = ending.id AND ${WAITS}
        AND q.started = ending.started AND q.owner = ending.owner
      RETURNING ending.number`,

    read: `SELECT ${COLUMNS}, q.payload FROM ${queue} AS q WHERE q.id = $1::uuid AND ${LIVE}`,

    revive: `WITH ${SESSION}
      UPDATE ${queue} AS q
      SET state = ${WAITING}, due_at = ${NOW}, expires_at = NULL, started = 0, finished = 0, owner = NULL
      FROM session
      WHERE q.id = $1::uuid AND ${LIVE} AND q.state <> ${DONE} AND NOT ${CLAIMED}`,

    remove: `WITH ${SESSION}
      DELETE FROM ${queue} AS q USING session WHERE q.id = $1::uuid AND ${LIVE} AND NOT ${CLAIMED}`,

    /** A cursor is the creation, in microseconds, and the id of the last item of a page. */
    list: `SELECT * FROM (
        (${page(queue, `q.state <> ${DONE} AND q.place >= 0 AND ($5::smallint IS NULL OR q.state = $5)`)})
        UNION ALL
        (${page(queue, `q.state = ${DONE} AND coalesce($5::smallint, ${DONE}) = ${DONE}`)})
      ) AS q
      ORDER BY position DESC, id DESC LIMIT $6`,

    /** Those of an operation, which are between two ids; nothing but their index is of use here. */
    listOf: `WITH own AS MATERIALIZED (
        SELECT * FROM ${queue} AS q
        WHERE q.id BETWEEN $7::uuid AND $8::uuid AND q.operation = $9::uuid
      )
      ${page("own", "($5::smallint IS NULL OR q.state = $5)")}`,

    stats: `SELECT q.kind, q.state, count(*) AS items,
        max(round(date_part('epoch', ${NOW} - q.due_at) * 1000))
          FILTER (WHERE q.due_at <= ${NOW}) AS oldest
      FROM ${queue} AS q WHERE ${LIVE} GROUP BY q.kind, q.state`,

    /** ST-9: each sweeper takes what no other holds. */
    sweep: `DELETE FROM ${queue} AS q
      WHERE q.id = ANY (ARRAY(
          SELECT q.id FROM ${queue} AS q WHERE q.expires_at <= ${NOW}
          ORDER BY q.expires_at LIMIT $1 FOR UPDATE SKIP LOCKED))
        AND q.expires_at <= ${NOW}`,
  };
}

/** Those of a page that one index lists. */
function page(queue: string, states: string): string {
  return `SELECT ${COLUMNS}, (extract(epoch FROM q.created_at) * 1000000)::bigint AS position
    FROM ${queue} AS q
    WHERE ${states}
      AND (q.created_at, q.id) < (
        coalesce(timestamptz 'epoch' + $1::float8 * interval '1 microsecond', 'infinity'),
        coalesce($2::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff'))
      AND ($3::smallint IS NULL OR q.kind = $3) AND ($4::text IS NULL OR q.name = $4) AND ${LIVE}
    ORDER BY q.created_at DESC, q.id DESC LIMIT $6`;
}
