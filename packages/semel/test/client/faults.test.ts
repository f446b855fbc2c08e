// Ten thousand payments over real sockets, of which every third attempt meets a fault: one effect and
// one answer for each.

import type { IncomingMessage, ServerResponse } from "node:http";
import { expect, test } from "vitest";
import { createClient } from "../../src/client/index.ts";
import { FAST, paymentService } from "./fixture.ts";

const CALLS = 10_000;
const CALLERS = 64;
const FAULT_RATE = 0.3;
const SEED = 20_261_122;

/** Mulberry32: a small generator whose numbers are the same in every run. */
function randomFrom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Lets `bytes` of an answer out, and breaks the connection. */
function cutAnswer({ socket }: IncomingMessage, bytes: number): void {
  let left = bytes;
  socket.write = (chunk: string | Uint8Array, ...rest: unknown[]) => {
    const encoding = typeof rest[0] === "string" ? (rest[0] as BufferEncoding) : "utf8";
    const buffer = typeof chunk === "string" ? Buffer.from(chunk, encoding) : chunk;
    const allowed = buffer.subarray(0, left);
    left -= allowed.byteLength;
    const write = Object.getPrototypeOf(socket).write as (
      chunk: Uint8Array,
      callback: () => void,
    ) => boolean;
    const isOver = left === 0;
    return write.call(socket, allowed, () => {
      if (isOver) socket.destroy();
    });
  };
}

type Fault = (request: IncomingMessage, response: ServerResponse, random: number) => boolean;

/** Each returns whether the request ends here, before Semel saw it. */
const FAULTS: Record<string, Fault> = {
  "connection reset before the request was read": ({ socket }) => {
    socket.resetAndDestroy();
    return true;
  },
  "connection closed before the request was read": ({ socket }) => {
    socket.destroy();
    return true;
  },
  "503 by something in front": (_request, response) => {
    response.writeHead(503, { "retry-after": "0" }).end();
    return true;
  },
  "429 by something in front": (_request, response) => {
    response.writeHead(429).end();
    return true;
  },
  "answer lost altogether": (request) => {
    cutAnswer(request, 1);
    return false;
  },
  "answer cut in its head or its body": (request, _response, random) => {
    cutAnswer(request, 1 + Math.floor(random * 250));
    return false;
  },
  "answer that never comes": (request) => {
    const { socket } = request;
    // It runs, and what it answers stays here. The client's own time ends it.
    socket.write = () => true;
    return false;
  },
};

test(`${CALLS} calls with ${FAULT_RATE * 100} % faults make one effect each (CL-1, CL-2)`, async () => {
  const random = randomFrom(SEED);
  const names = Object.keys(FAULTS);
  const met = new Map<string, number>();
  const service = await paymentService({
    front: (request, response) => {
      if (random() >= FAULT_RATE) return false;
      // The last one takes an attempt's whole time, so it is rarer.
      const isRare = random() < 0.01;
      const name = isRare ? names.at(-1)! : names[Math.floor(random() * (names.length - 1))]!;
      met.set(name, (met.get(name) ?? 0) + 1);
      return FAULTS[name]!(request, response, random());
    },
  });
  let attempts = 0;
  const client = createClient({
    retry: { ...FAST, attemptsMax: 100 },
    attemptTimeout: "2s",
    budget: false,
    onEvent: ({ type }) => {
      if (type === "attempt") attempts++;
    },
  });
  const answers = new Map<number, string>();
  let next = 0;
  const caller = async () => {
    for (let call = next++; call < CALLS; call = next++) {
      const response = await client(service.url, { method: "POST", body: `call=${call}` });
      expect(response.status).toBe(201);
      answers.set(call, ((await response.json()) as { order: string }).order);
    }
  };
  await Promise.all(Array.from({ length: CALLERS }, caller));

  expect(service.payments).toHaveLength(CALLS);
  expect(new Set(service.payments).size).toBe(CALLS);
  expect(answers.size).toBe(CALLS);
  for (const [call, order] of answers) expect(order).toBe(`call=${call}`);
  // The faults were there, each of them.
  expect([...met.keys()].sort()).toEqual([...names].sort());
  const faults = [...met.values()].reduce((sum, count) => sum + count, 0);
  expect(faults / service.seen.length).toBeGreaterThan(FAULT_RATE * 0.9);
  expect(attempts).toBeGreaterThan(CALLS * 1.35);
}, 300_000);
