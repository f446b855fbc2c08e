// A downstream that does what it is asked for once for each idempotency key, and answers a repetition as
// the first time.

import { randomUUID } from "node:crypto";
import { createServer } from "node:http";

const answers = new Map();
const server = createServer((request, response) => {
  const key = `${request.url} ${request.headers["idempotency-key"]}`;
  request.resume().once("end", () => {
    if (!answers.has(key)) {
      answers.set(key, randomUUID());
      console.log(`${key}: ${answers.get(key)}`);
    }
    response.end(answers.get(key));
  });
});
server.listen(Number(process.env.PORT ?? 8091), "127.0.0.1");
