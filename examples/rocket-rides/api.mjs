// What riders talk to: a ride that was asked for is kept before it is answered for, and done by a worker.

import { createServer } from "node:http";
import { text } from "node:stream/consumers";
import { isSemelError } from "semel";

const STATUS = { "key-reused": 422, "payload-invalid": 400, "key-invalid": 400 };

/** @param {ReturnType<typeof import("./rides.mjs").rocketRides>["ride"]} ride */
export function ridesApi(ride) {
  return createServer(async (request, response) => {
    try {
      const key = String(request.headers["idempotency-key"] ?? request.url?.split("/")[2] ?? "");
      if (request.method === "GET") return answer(response, 200, await ride.status({ key }));
      const { started, status } = await ride.start({ key, input: JSON.parse(await text(request)) });
      answer(response, 202, { started, status, href: `/rides/${key}` });
    } catch (error) {
      const code = isSemelError(error) ? error.code : "bad-request";
      answer(response, STATUS[code] ?? 503, { code, error: String(error?.message) });
    }
  });
}

/**
 * @param {import("node:http").ServerResponse} response
 * @param {number} status
 * @param {unknown} body
 */
function answer(response, status, body) {
  response.writeHead(status, { "Content-Type": "application/json" });
  response.end(JSON.stringify(body));
}
