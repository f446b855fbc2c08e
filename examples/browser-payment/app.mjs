// A shop's web server: the page, Semel's client for it, and a payments API that makes each payment
// once.

import { createReadStream } from "node:fs";
import { createServer } from "node:http";
import { extname } from "node:path";
import { fileURLToPath } from "node:url";
import { Idempotency } from "semel";
import { memoryStore } from "semel/memory";
import { idempotent, operationOf } from "semel/node";

const PAGE = new URL("page.html", import.meta.url);
/** The package as it was built: browsers load its modules as they are. */
const PACKAGE = new URL("dist/", import.meta.resolve("semel/package.json"));

/**
 * @param {{ beforeAnswer?: () => Promise<unknown> }} [options] `beforeAnswer` is awaited when a
 * payment has been made and its answer has not left
 */
export function shop({ beforeAnswer = async () => {} } = {}) {
  /** @type {{ payment: number, order: string, amount: number, key: string | undefined }[]} */
  const payments = [];
  const idempotency = new Idempotency({ store: memoryStore() });
  const options = { scope: /** @type {const} */ ("shared"), required: true };

  const pay = idempotent(idempotency, options, async (request, response) => {
    let text = "";
    for await (const chunk of request) text += chunk;
    const { order, amount } = JSON.parse(text);
    const payment = payments.length + 1;
    payments.push({ payment, order, amount, key: operationOf(request)?.key });
    await beforeAnswer();
    response.writeHead(201, { "content-type": "application/json" });
    response.end(JSON.stringify({ payment, order }));
  });

  const server = createServer((request, response) => {
    const { pathname } = new URL(request.url ?? "/", "http://localhost");
    if (pathname === "/payments" && request.method === "POST") return pay(request, response);
    if (request.method !== "GET") return response.writeHead(405).end();
    if (pathname === "/payments") {
      response.writeHead(200, { "content-type": "application/json" });
      return response.end(JSON.stringify(payments));
    }
    if (pathname === "/") return sendFile(PAGE, response);
    const isModule = /^\/semel\/([a-z-]+\/)*[a-z-]+\.js$/.test(pathname);
    if (isModule) return sendFile(new URL(pathname.slice("/semel/".length), PACKAGE), response);
    response.writeHead(404).end();
  });
  return { server, payments };
}

/**
 * @param {URL} file
 * @param {import("node:http").ServerResponse} response
 */
function sendFile(file, response) {
  const type = extname(file.pathname) === ".js" ? "text/javascript" : "text/html";
  createReadStream(fileURLToPath(file))
    .on("error", () => response.writeHead(404).end())
    .once("open", () => response.setHeader("content-type", `${type}; charset=utf-8`))
    .pipe(response);
}
