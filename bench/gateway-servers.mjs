// The processes of `gateway.mjs` that are not the gateway: the service behind, and the reverse proxy
// that somebody would write who needs no more than that.

import { Agent, createServer, request as httpRequest } from "node:http";

const [role, upstreamPort] = process.argv.slice(2);
let executed = 0;

/** What a small service does: reads the body, answers 200 bytes. */
function service(request, response) {
  if (/^\/\d+$/.test(request.url)) return download(request, response);
  let length = 0;
  request.on("data", (chunk) => {
    length += chunk.length;
  });
  request.on("end", () => {
    executed++;
    const body = JSON.stringify({ charged: length }).padEnd(200);
    const headers = { "content-type": "application/json", "content-length": body.length };
    response.writeHead(201, headers).end(body);
  });
}

/** As many bytes as the path says. */
function download(request, response) {
  const block = Buffer.alloc(2 ** 16, "x");
  let left = Number(request.url.slice(1));
  response.writeHead(200, { "content-length": left });
  const send = () => {
    while (left > 0) {
      const chunk = block.subarray(0, left);
      left -= chunk.length;
      if (!response.write(chunk)) return response.once("drain", send);
    }
    response.end();
  };
  send();
}

const HOP_BY_HOP = new Set([
  ...["connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer"],
  ...["transfer-encoding", "upgrade"],
]);

/** A reverse proxy on `node:http`: kept connections, hop-by-hop headers, streams both ways. */
function proxy() {
  const agent = new Agent({ keepAlive: true });
  return (request, response) => {
    const { method, url, headers, socket } = request;
    const passed = endToEnd(headers);
    passed["x-forwarded-for"] = socket.remoteAddress;
    passed["x-forwarded-host"] = headers.host;
    passed["x-forwarded-proto"] = "http";
    passed.via = `${request.httpVersion} bare`;
    const upstream = httpRequest(
      { agent, host: "127.0.0.1", port: upstreamPort, method, path: url, headers: passed },
      (answer) => {
        response.writeHead(answer.statusCode, endToEnd(answer.headers));
        answer.pipe(response);
      },
    );
    upstream.on("error", () => {
      if (response.headersSent) response.destroy();
      else response.writeHead(502).end();
    });
    response.on("close", () => {
      if (!response.writableFinished) upstream.destroy();
    });
    request.pipe(upstream);
  };
}

function endToEnd(headers) {
  const passed = {};
  for (const name in headers) if (!HOP_BY_HOP.has(name)) passed[name] = headers[name];
  return passed;
}

const server = createServer(role === "service" ? service : proxy());
server.keepAliveTimeout = 75_000;
server.listen(0, "127.0.0.1", () => process.send({ port: server.address().port }));
process.on("message", () => process.send({ executed }));
process.on("disconnect", () => process.exit());
