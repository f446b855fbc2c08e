// What stands behind the gateway in compose.yaml: it charges on every POST, and knows no keys.

import { createServer } from "node:http";

let charges = 0;

createServer((request, response) => {
  request.resume();
  if (request.method === "POST") charges++;
  response.writeHead(request.method === "POST" ? 201 : 200, { "Content-Type": "application/json" });
  response.end(`${JSON.stringify({ charges })}\n`);
}).listen(3000);
