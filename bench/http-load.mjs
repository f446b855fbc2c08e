// A load generator light enough that the server is what is measured: raw sockets, one request under
// way on each, every answer read to its end and its status checked.

import { connect } from "node:net";
import { percentile } from "./report.mjs";

/**
 * Keeps every connection busy for a while.
 *
 * @param keyOf the key of the next request
 * @param requestOf the bytes of a request with that key. @default a charge
 * @returns how many were answered, and how long they took
 */
export async function load({ port, connections, durationMs, keyOf, status, requestOf = charge }) {
  const latencies = [];
  const endsAt = performance.now() + durationMs;
  const startedAt = performance.now();
  await Promise.all(
    Array.from({ length: connections }, () =>
      drive({ port, endsAt, next: () => requestOf(keyOf()), status, latencies }),
    ),
  );
  const tookMs = performance.now() - startedAt;
  latencies.sort((a, b) => a - b);
  return {
    requests: latencies.length,
    perSecond: (latencies.length * 1_000) / tookMs,
    p50Ms: percentile(latencies, 0.5),
    p99Ms: percentile(latencies, 0.99),
  };
}

const BODY = JSON.stringify({ order: "4711", amount: 1999, currency: "EUR", lines: [1, 2, 3] });

function charge(key) {
  return `POST /charges HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: ${BODY.length}\r\nIdempotency-Key: ${key}\r\n\r\n${BODY}`;
}

function drive({ port, endsAt, next, status, latencies }) {
  return new Promise((resolve, reject) => {
    const socket = connect({ port, host: "127.0.0.1", noDelay: true });
    let sentAt = 0;
    let received = "";
    const send = () => {
      sentAt = performance.now();
      if (sentAt >= endsAt) socket.end();
      else socket.write(next(), "latin1");
    };
    socket.setEncoding("latin1");
    socket.on("connect", send);
    socket.on("error", reject);
    socket.on("close", resolve);
    socket.on("data", (chunk) => {
      received += chunk;
      const length = answerLength(received);
      if (length === undefined || received.length < length) return;
      const answered = Number(received.slice(9, 12));
      if (answered !== status) {
        socket.destroy(new Error(`expected ${status}, got ${received.slice(0, 300)}`));
        return;
      }
      latencies.push(performance.now() - sentAt);
      received = received.slice(length);
      send();
    });
  });
}

function answerLength(text) {
  const bodyAt = text.indexOf("\r\n\r\n") + 4;
  if (bodyAt < 4) return undefined;
  const head = text.slice(0, bodyAt);
  const declared = /\r\ncontent-length: (\d+)/i.exec(head);
  if (declared) return bodyAt + Number(declared[1]);
  const last = text.indexOf("0\r\n\r\n", bodyAt);
  return last < 0 ? undefined : last + 5;
}
