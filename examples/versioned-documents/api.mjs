// Documents with versions, over node:http on Postgres. Every write names the state that it was made
// from: nobody's change is lost, and a request that is sent twice is applied once, without any key.

import { createServer } from "node:http";
import { etag, evaluatePreconditions, preconditionResponse } from "semel/conditional";
import { fromPg, insertOnce, updateVersion } from "semel/sql";

const BODY_CHARACTERS_MAX = 100_000;
/** Looks again after another was faster, which an `If-Match: *` may need more than once. */
const TRIES_MAX = 10;

/**
 * @typedef {{ id: string, title: string, body: string, incarnation: string, version: string }} Document
 * @typedef {{ title: string, body: string }} Content
 * @typedef {{ status: number, headers?: Record<string, string>, body?: string | null }} Answer
 * @typedef {{ method?: string | undefined, headers: import("node:http").IncomingHttpHeaders }} Request
 */

/**
 * `incarnation` is new whenever a document is created: versions begin again at 1 then, and the entity
 * tag of a deleted document must never match the next one of its name.
 *
 * @param {import("pg").Pool} pool
 */
export async function createTable(pool) {
  await pool.query(`
    CREATE TABLE IF NOT EXISTS documents (
      id          text PRIMARY KEY,
      title       text NOT NULL,
      body        text NOT NULL,
      incarnation bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
      version     bigint NOT NULL DEFAULT 1
    )`);
}

/** @param {import("pg").Pool} pool */
export function documentsApi(pool) {
  const executor = fromPg(pool);

  return createServer(async (request, response) => {
    try {
      const { status, headers = {}, body = null } = await answer(request);
      response.writeHead(status, headers).end(body);
    } catch (error) {
      console.error(error);
      if (response.headersSent) response.destroy();
      else response.writeHead(500).end();
    }
  });

  /**
   * What would refuse the request without its conditions comes first (RFC 9110 §13.2.1).
   *
   * @param {import("node:http").IncomingMessage} request
   * @returns {Promise<Answer>}
   */
  async function answer(request) {
    const id = /^\/documents\/([\w-]{1,64})$/.exec(request.url ?? "")?.[1];
    if (id === undefined) return problem(404, "There are only /documents/{id}");
    switch (request.method) {
      case "GET":
      case "HEAD":
        return read(request, id);
      case "PUT": {
        const content = await readContent(request);
        if (typeof content === "string") return problem(400, content);
        return untilSettled(request, id, (current) => write(id, current, content), content);
      }
      case "DELETE":
        return untilSettled(request, id, (current) => remove(current));
      default:
        return { ...problem(405, "Use GET, HEAD, PUT or DELETE") };
    }
  }

  /**
   * @param {string} id
   * @returns {Promise<Document | undefined>}
   */
  async function find(id) {
    return (await pool.query("SELECT * FROM documents WHERE id = $1", [id])).rows[0];
  }

  /**
   * @param {Request} request
   * @param {string} id
   * @returns {Promise<Answer>}
   */
  async function read(request, id) {
    const document = await find(id);
    if (document === undefined) return problem(404, "There is no such document");
    const headers = { etag: tagOf(document), "cache-control": "no-cache" };
    const verdict = evaluatePreconditions(request, { etag: headers.etag });
    if (verdict.kind !== "proceed") return preconditionResponse(verdict, { headers });
    const { title, body } = document;
    return json(200, { id, title, body }, headers);
  }

  /**
   * Looks, evaluates the conditions, and writes if nothing has changed since the look: the statement
   * that writes tests that. If something has, it looks again, and the conditions mostly fail then.
   *
   * @param {Request} request
   * @param {string} id
   * @param {(current: Document | undefined) => Promise<Answer | undefined>} apply nothing when another
   * was faster
   * @param {Content} [content] what is to be there afterwards
   * @returns {Promise<Answer>}
   */
  async function untilSettled(request, id, apply, content) {
    for (let tries = 0; tries < TRIES_MAX; tries++) {
      const current = await find(id);
      const headers = current ? { etag: tagOf(current) } : {};
      const verdict = evaluatePreconditions(request, current && { etag: tagOf(current) }, {
        required: true,
        // The first answer was lost, or somebody wrote the same: RFC 9110 §13.1.1.
        alreadyApplied: () => content !== undefined && isSame(current, content),
      });
      if (verdict.kind !== "proceed") return preconditionResponse(verdict, { headers });
      const done = await apply(current);
      if (done !== undefined) return done;
    }
    const busy = problem(503, "Others write this document all the time");
    return { ...busy, headers: { ...busy.headers, "retry-after": "1" } };
  }

  /**
   * @param {string} id
   * @param {Document | undefined} current
   * @param {Content} content
   * @returns {Promise<Answer | undefined>}
   */
  async function write(id, current, content) {
    if (current === undefined) {
      const { row, inserted } = await insertOnce(executor, {
        table: "documents",
        values: { id, ...content },
        key: ["id"],
      });
      const document = /** @type {Document} */ (row);
      return inserted ? { status: 201, headers: { etag: tagOf(document) } } : undefined;
    }
    const update = await updateVersion(executor, {
      table: "documents",
      key: { id, incarnation: current.incarnation },
      version: "version",
      expected: current.version,
      set: content,
    });
    if (update.kind !== "updated") return undefined;
    return { status: 204, headers: { etag: tagOf(/** @type {Document} */ (update.row)) } };
  }

  /**
   * @param {Document | undefined} current
   * @returns {Promise<Answer | undefined>}
   */
  async function remove(current) {
    if (current === undefined) return { status: 204 };
    const { id, incarnation, version } = current;
    const { rowCount } = await pool.query(
      "DELETE FROM documents WHERE id = $1 AND incarnation = $2 AND version = $3",
      [id, incarnation, version],
    );
    return rowCount === 1 ? { status: 204 } : undefined;
  }
}

/** @param {Document} document */
function tagOf({ incarnation, version }) {
  return etag(`${incarnation}-${version}`);
}

/**
 * @param {Document | undefined} document
 * @param {Content} content
 */
function isSame(document, { title, body }) {
  return document !== undefined && document.title === title && document.body === body;
}

/**
 * @param {import("node:http").IncomingMessage} request
 * @returns {Promise<Content | string>} the content, or what is wrong with it
 */
async function readContent(request) {
  let text = "";
  for await (const chunk of request.setEncoding("utf8")) {
    text += chunk;
    if (text.length > BODY_CHARACTERS_MAX) return "The body is too large";
  }
  let content;
  try {
    content = JSON.parse(text);
  } catch {
    return "The body must be JSON";
  }
  const { title, body } = content ?? {};
  if (typeof title === "string" && typeof body === "string") return { title, body };
  return "The body must have a `title` and a `body`, both texts";
}

/**
 * @param {number} status
 * @param {unknown} value
 * @param {Record<string, string>} headers
 * @returns {Answer}
 */
function json(status, value, headers = {}) {
  const type = { "content-type": "application/json" };
  return { status, headers: { ...type, ...headers }, body: `${JSON.stringify(value)}\n` };
}

/**
 * @param {number} status
 * @param {string} detail
 * @returns {Answer}
 */
function problem(status, detail) {
  return json(status, { status, detail }, { "content-type": "application/problem+json" });
}
