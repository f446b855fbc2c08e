// Responses that wait behind others on their connection, as pipelined requests' do: when it closes, older
// versions of Node tell them nothing, and what is written to them would wait for ever to drain; newer ones
// destroy them, as if their handlers had.

import type { ServerResponse } from "node:http";
import type { Socket } from "node:net";
import { isHttp2 } from "./node-body.ts";

type Listeners = Set<() => void>;

/** One listener a connection, however many responses wait on it. */
const waiting = new WeakMap<Socket, Listeners>();

/**
 * Tells when a response that waits behind others has lost its connection.
 *
 * @returns stops listening
 */
export function whenQueuedInVain(response: ServerResponse, listener: () => void): () => void {
  // It is given its connection when its turn comes; from then on it hears of the end itself.
  if (response.socket !== null || isHttp2(response.req)) return nothing;
  const { socket } = response.req;
  if (socket.destroyed) {
    listener();
    return nothing;
  }
  let listeners = waiting.get(socket);
  if (listeners === undefined) {
    listeners = new Set();
    waiting.set(socket, listeners);
    socket.once("close", tellAll);
  }
  const stop = () => {
    listeners.delete(listener);
    response.off("socket", stop);
  };
  listeners.add(listener);
  response.once("socket", stop);
  return stop;
}

/** Whether it is Node that destroys a response, because the connection that it waited for has closed. */
export function isQueuedInVain(response: ServerResponse, error: Error | undefined): boolean {
  if (response.socket !== null || isHttp2(response.req)) return false;
  const { code, message } = (error ?? {}) as NodeJS.ErrnoException;
  return code === "ECONNRESET" && message === "aborted";
}

function tellAll(this: Socket): void {
  const listeners = waiting.get(this) ?? [];
  waiting.delete(this);
  for (const listener of listeners) listener();
}

function nothing(): void {}
