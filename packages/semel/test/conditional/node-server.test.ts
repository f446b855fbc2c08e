// HTTP-17 on a real server of node:http, asked over raw sockets: the bytes that leave are the protocol.

import { once } from "node:events";
import { createServer, type Server } from "node:http";
import { type AddressInfo, connect } from "node:net";
import { afterEach, beforeEach, expect, test } from "vitest";
import { etag, evaluatePreconditions, preconditionResponse } from "../../src/conditional/index.ts";

let server: Server;
let documents: Map<string, { version: number; body: string }>;

beforeEach(async () => {
  documents = new Map([["/a", { version: 1, body: "first" }]]);
  server = createServer((request, response) => {
    const document = documents.get(request.url!);
    const headers = document ? { etag: etag(document.version), "cache-control": "no-cache" } : {};
    const current = document && { etag: headers.etag };
    const verdict = evaluatePreconditions(request, current, { required: true });
    if (verdict.kind !== "proceed") {
      const answer = preconditionResponse(verdict, { headers });
      response.writeHead(answer.status, answer.headers).end(answer.body);
    } else if (request.method === "PUT") {
      const version = (document?.version ?? 0) + 1;
      documents.set(request.url!, { version, body: `version ${version}` });
      response.writeHead(document ? 204 : 201, { etag: etag(version) }).end();
    } else if (request.method === "DELETE") {
      documents.delete(request.url!);
      response.writeHead(204).end();
    } else {
      response.writeHead(document ? 200 : 404, headers).end(document?.body);
    }
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
});

afterEach(async () => {
  server.closeAllConnections();
  server.close();
  await once(server, "close");
});

/** Sends requests on one connection, the last with `Connection: close`, and reads to its end. */
async function exchange(...requests: string[][]): Promise<string> {
  const socket = connect((server.address() as AddressInfo).port, "127.0.0.1");
  const last = requests.length - 1;
  for (const [n, [line, ...fields]] of requests.entries()) {
    const all = [
      `${line} HTTP/1.1`,
      "Host: h",
      ...fields,
      ...(n === last ? ["Connection: close"] : []),
    ];
    socket.write(`${all.join("\r\n")}\r\n\r\n`, "latin1");
  }
  let text = "";
  for await (const chunk of socket.setEncoding("latin1")) text += chunk;
  return text;
}

const statuses = (text: string) =>
  [...text.matchAll(/^HTTP\/1\.1 (\d+)/gm)].map(([, status]) => status);

test("304 has its headers and no body, so that the next answer on the connection is read right", async () => {
  const text = await exchange(["GET /a", 'If-None-Match: "1"'], ["GET /a", 'If-None-Match: "0"']);
  expect(statuses(text)).toEqual(["304", "200"]);
  const [head, rest] = [
    text.slice(0, text.indexOf("\r\n\r\n")),
    text.slice(text.indexOf("\r\n\r\n") + 4),
  ];
  expect(head).toMatch(/^etag: "1"\r?$/m);
  expect(head).toMatch(/^cache-control: no-cache\r?$/m);
  expect(head).toMatch(/^Date: /m);
  expect(head).not.toMatch(/^(content-length: [1-9]|content-type|transfer-encoding)/im);
  expect(rest).toMatch(/^HTTP\/1\.1 200 OK\r\n[\s\S]*first/);
});

test("repeated lines of If-Match are one list, obs-text and commas within quotes included", async () => {
  const text = await exchange(
    ["PUT /a", 'If-Match: "x,y", "caf\xe9"', 'If-Match: "1"', "Content-Length: 0"],
    ["PUT /a", 'If-Match: "1"', "Content-Length: 0"],
    ["PUT /a", 'If-Match: W/"2"', "Content-Length: 0"],
  );
  expect(statuses(text)).toEqual(["204", "412", "412"]);
  expect(documents.get("/a")).toEqual({ version: 2, body: "version 2" });
});

test("If-None-Match: * creates once, and refuses the repetition", async () => {
  const put = ["PUT /b", "If-None-Match: *", "Content-Length: 0"];
  const text = await exchange(put, put);
  expect(statuses(text)).toEqual(["201", "412"]);
  expect(text).toContain("precondition-failed");
  expect(documents.get("/b")?.version).toBe(1);
});

test("a repeated DELETE says 204 again, and changes nothing", async () => {
  const remove = ["DELETE /a", 'If-Match: "1"'];
  expect(statuses(await exchange(remove, remove))).toEqual(["204", "204"]);
});

test("writes without a condition, or with one that cannot be read, change nothing", async () => {
  const text = await exchange(
    ["PUT /a", "Content-Length: 0"],
    ["PUT /a", "If-Match: 1", "Content-Length: 0"],
    ["PUT /a", "If-Match:", "Content-Length: 0"],
    ["DELETE /a"],
  );
  expect(statuses(text)).toEqual(["428", "400", "400", "428"]);
  expect(text).toMatch(/"code":"precondition-required"/);
  expect(text).toMatch(/"code":"precondition-invalid"/);
  expect(documents.get("/a")).toEqual({ version: 1, body: "first" });
});
