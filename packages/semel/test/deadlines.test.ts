// Many waits of one length, bounded by one timer, under a clock that stands still.

import { once } from "node:events";
import { connect } from "node:net";
import { Worker } from "node:worker_threads";
import { describe, expect, test } from "vitest";
import { systemClock } from "../src/clock.ts";
import { Deadlines } from "../src/deadlines.ts";
import { manualClock } from "../src/testing/manual-clock.ts";
import { deferred, failure, isSettled, turns } from "./engine/fixture.ts";

const late = new Error("late");

describe("deadlines", () => {
  test("pass on what the work comes to", async () => {
    const deadlines = new Deadlines(manualClock(), 100);
    const error = new Error("no");
    expect(await deadlines.within(Promise.resolve(1), () => late)).toBe(1);
    expect(await failure(deadlines.within(Promise.reject(error), () => late))).toBe(error);
  });

  test("give work up at its own time, in the order in which it began, and not before", async () => {
    const clock = manualClock();
    const deadlines = new Deadlines(clock, 100);
    const waits = [];
    for (let n = 0; n < 3; n++) {
      waits.push(failure(deadlines.within(new Promise(() => {}), () => new Error(`late ${n}`))));
      await clock.advance(30);
    }
    await clock.advance(9);
    expect(await Promise.all(waits.map(isSettled))).toEqual([false, false, false]);
    for (const [n, wait] of waits.entries()) {
      await clock.advance(n === 0 ? 1 : 30);
      expect(await Promise.all(waits.map(isSettled))).toEqual([true, n > 0, n > 1]);
      expect(await wait).toEqual(new Error(`late ${n}`));
    }
    expect(clock.pending).toBe(0);
  });

  test("have one timer, which is over when nobody waits any more", async () => {
    const clock = manualClock();
    const deadlines = new Deadlines(clock, 100);
    const work = deferred<number>();
    const waits = Array.from({ length: 50 }, () => deadlines.within(work.promise, () => late));
    expect(clock.pending).toBe(1);
    work.resolve(1);
    expect(await Promise.all(waits)).toEqual(Array(50).fill(1));
    await clock.advance(100);
    expect(clock.pending).toBe(0);
    // And another one when somebody waits again.
    const outcome = failure(deadlines.within(new Promise(() => {}), () => late));
    await clock.advance(100);
    expect(await outcome).toBe(late);
  });

  test("that have passed leave the work alone: its failure is nobody's unhandled rejection", async () => {
    const clock = manualClock();
    const work = deferred<number>();
    const outcome = failure(new Deadlines(clock, 100).within(work.promise, () => late));
    await clock.advance(100);
    expect(await outcome).toBe(late);
    work.reject(new Error("much later"));
    await turns();
  });

  test("that passed while the process stood still leave to their answers what has arrived by then", async () => {
    const server = new Worker(ECHO, { eval: true });
    try {
      const [port] = await once(server, "message");
      const socket = connect(port);
      await once(socket, "connect");
      const deadlines = new Deadlines(systemClock, 100);
      const answered = deadlines.within(once(socket, "data"), () => late);
      const unanswered = failure(deadlines.within(new Promise(() => {}), () => late));
      socket.write("ping");
      // Timers and sockets have to wait, and the server has not.
      const until = performance.now() + 300;
      while (performance.now() < until);
      expect(String(await answered)).toBe("ping");
      expect(await unanswered).toBe(late);
      socket.destroy();
    } finally {
      await server.terminate();
    }
  });
});

/** A server that another thread runs. */
const ECHO = `
const { parentPort } = require("node:worker_threads");
const server = require("node:net").createServer((socket) => socket.pipe(socket));
server.listen(0, "127.0.0.1", () => parentPort.postMessage(server.address().port));
`;
