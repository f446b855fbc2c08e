// A proxy between a client and its server that breaks their connection at a chosen message: for tests
// of what happens when the network, or the server, fails in the midst of an exchange.

import { once } from "node:events";
import { connect, createServer, type Server, type Socket } from "node:net";
import { setTimeout as delay, setImmediate as nextTurn } from "node:timers/promises";
import { InvalidOption } from "../errors.ts";
import { assertInteger, assertKnownOptions, assertOneOf } from "../options.ts";
import { framerOf, type Side, type WireProtocol } from "./wire-messages.ts";

export type { Side, WireProtocol } from "./wire-messages.ts";

/** What may happen to a message, and to the connection that it travels on. */
export const PROXY_FAULTS = [
  "delay",
  "slices",
  "reset",
  "cut",
  "truncate",
  "lose-reply",
  "black-hole",
  "close-client",
  "close-server",
] as const;

/**
 * - `"delay"`: the message, and all behind it, arrive `delayMs` later.
 * - `"slices"`: the message arrives byte by byte.
 * - `"reset"`: instead of the message, both sides get a reset (RST).
 * - `"cut"`: instead of the message, the connection ends for both sides (FIN).
 * - `"truncate"`: half of the message arrives, then the connection ends for both sides.
 * - `"lose-reply"`: the message arrives, and when the next message of the server comes, which is not
 *   delivered, the client gets a reset: the server has done what it was asked, and the client cannot
 *   know. For messages of the client.
 * - `"black-hole"`: from this message on nothing arrives, either way, and neither side is told, not
 *   even when the other goes away, until {@link FaultProxy.heal}.
 * - `"close-client"`: instead of the message, the connection ends for the client; the server is not
 *   told, and keeps its session, until {@link FaultProxy.heal}.
 * - `"close-server"`: instead of the message, the connection ends for the server; the client is not
 *   told, until {@link FaultProxy.heal}.
 */
export type ProxyFaultKind = (typeof PROXY_FAULTS)[number];

/** A whole message as it came to the proxy. */
export interface ProxyMessage {
  /** Who sent it. */
  readonly from: Side;
  /** Its place among the messages of both sides since recording or arming began, from 0. */
  readonly index: number;
  readonly bytes: Buffer;
}

/** One fault, which hits one connection once. */
export interface ProxyFault {
  kind: ProxyFaultKind;
  /**
   * Which message is hit: its place among those of both sides and all connections from now on,
   * counted from 0; or the first for which a function is true; or `"connection"`, which is the next
   * connection, as it is accepted, before a byte of it has passed.
   */
  at: number | "connection" | ((message: ProxyMessage) => boolean);
  /** For `"delay"`, in milliseconds. @default 50 */
  delayMs?: number;
}

export interface FaultProxyOptions {
  /** Where the server is. @default host "127.0.0.1" */
  target: { host?: string; port: number };
  /**
   * What is spoken, so that messages can be told apart; it must not be encrypted or compressed.
   * `"chunks"`: anything; whatever arrives at once counts as a message.
   * @default "chunks"
   */
  protocol?: WireProtocol;
}

/** A proxy on a port of its own, which passes everything on until it is armed. */
export interface FaultProxy {
  /** Clients connect here, on 127.0.0.1. */
  readonly port: number;
  /** How many faults were injected so far, by kind. */
  readonly injected: Readonly<Record<ProxyFaultKind, number>>;
  /**
   * Lets one fault happen; it takes the place of one that has not happened yet.
   *
   * @returns resolves when it has happened; never, when it does not
   * @throws {InvalidOption}
   */
  arm(fault: ProxyFault): Promise<void>;
  /** Every message that passes while `run` runs, in the order of their arrival here. */
  record(run: () => Promise<unknown>): Promise<ProxyMessage[]>;
  /** Ends what silent faults have left open, on both sides, and forgets a fault still to come. */
  heal(): void;
  /** Ends every connection, and the proxy. */
  close(): Promise<void>;
}

/**
 * Starts a proxy before a server.
 *
 * @throws {InvalidOption} when an option is unknown or out of bounds
 * @example
 * const proxy = await faultProxy({ target: { port: 5432 }, protocol: "postgres" });
 * const pool = new pg.Pool({ host: "127.0.0.1", port: proxy.port, query_timeout: 5_000 });
 * // The server commits, and the client is never told.
 * const happened = proxy.arm({
 *   kind: "lose-reply",
 *   at: ({ from, bytes }) => from === "client" && bytes.includes("COMMIT"),
 * });
 */
export async function faultProxy(options: FaultProxyOptions): Promise<FaultProxy> {
  assertKnownOptions(options, ["target", "protocol"], "faultProxy()");
  const { target, protocol = "chunks" } = options;
  assertKnownOptions(target, ["host", "port"], "`target` of faultProxy()");
  assertInteger(target.port, "target.port", 1, 65_535);
  assertOneOf(protocol, ["postgres", "mysql", "redis", "chunks"], "protocol");
  const proxy = new Proxying({ host: "127.0.0.1", ...target }, protocol);
  await proxy.listen();
  return proxy;
}

const DELAY_MS = 50;

interface Armed extends ProxyFault {
  happened(): void;
}

class Proxying implements FaultProxy {
  readonly target: { host: string; port: number };
  readonly protocol: WireProtocol;
  readonly injected = Object.fromEntries(PROXY_FAULTS.map((kind) => [kind, 0])) as Record<
    ProxyFaultKind,
    number
  >;
  readonly #server: Server;
  readonly #passages = new Set<Passage>();
  #armed: Armed | undefined;
  #seen = 0;
  #recording: ProxyMessage[] | undefined;

  constructor(target: { host: string; port: number }, protocol: WireProtocol) {
    this.target = target;
    this.protocol = protocol;
    // An end is passed on after what was sent before it, not at once.
    this.#server = createServer({ allowHalfOpen: true, noDelay: true }, (client) => {
      const passage = new Passage(this, client, (ended) => this.#passages.delete(ended));
      this.#passages.add(passage);
      const hit = this.#hit(({ at }) => at === "connection");
      void passage.open(hit);
    });
  }

  async listen(): Promise<void> {
    this.#server.listen(0, "127.0.0.1");
    await once(this.#server, "listening");
  }

  get port(): number {
    return (this.#server.address() as { port: number }).port;
  }

  arm(fault: ProxyFault): Promise<void> {
    assertKnownOptions(fault, ["kind", "at", "delayMs"], "arm()");
    assertOneOf(fault.kind, PROXY_FAULTS, "kind");
    const { at, delayMs = DELAY_MS } = fault;
    if (at !== "connection" && typeof at !== "function") {
      assertInteger(at, "at", 0, Number.MAX_SAFE_INTEGER);
    }
    assertInteger(delayMs, "delayMs", 0, 2 ** 31 - 1);
    if (at === "connection" && ["slices", "truncate", "lose-reply"].includes(fault.kind)) {
      throw new InvalidOption(`\`${fault.kind}\` is of a message; \`at\` must name one`);
    }
    this.#seen = 0;
    return new Promise((happened) => {
      this.#armed = { ...fault, delayMs, happened };
    });
  }

  async record(run: () => Promise<unknown>): Promise<ProxyMessage[]> {
    const messages: ProxyMessage[] = [];
    this.#seen = 0;
    this.#recording = messages;
    try {
      await run();
    } finally {
      this.#recording = undefined;
    }
    return messages;
  }

  /** Counts a message; gives what is to happen to it. */
  arrived(from: Side, bytes: Buffer): ProxyFault | undefined {
    const message = { from, index: this.#seen++, bytes };
    this.#recording?.push(message);
    return this.#hit(({ at }) => (typeof at === "function" ? at(message) : at === message.index));
  }

  #hit(isHit: (fault: ProxyFault) => boolean): ProxyFault | undefined {
    const fault = this.#armed;
    if (fault === undefined || !isHit(fault)) return undefined;
    this.#armed = undefined;
    this.injected[fault.kind]++;
    fault.happened();
    return fault;
  }

  heal(): void {
    this.#armed = undefined;
    for (const passage of this.#passages) if (passage.isSilent) passage.destroy();
  }

  async close(): Promise<void> {
    for (const passage of this.#passages) passage.destroy();
    this.#server.close();
    await once(this.#server, "close");
  }
}

/** One connection of a client, and the one to the server that belongs to it. */
class Passage {
  /** Nothing passes any more, and nobody is told. */
  isSilent = false;
  readonly #proxy: Proxying;
  readonly #sockets: Record<Side, Socket>;
  /** The reply to what has passed is to be lost. */
  #losesReply = false;
  /** The connection is broken for both sides: what still arrives is dropped. */
  #isBroken = false;

  constructor(proxy: Proxying, client: Socket, onEnd: (passage: Passage) => void) {
    this.#proxy = proxy;
    const server = connect({ ...proxy.target, allowHalfOpen: true, noDelay: true });
    this.#sockets = { client, server };
    for (const socket of [client, server]) {
      // A socket that breaks is closed next.
      socket.on("error", () => {});
      socket.on("close", () => {
        if (!this.isSilent) this.destroy();
        if (client.closed && server.closed) onEnd(this);
      });
    }
  }

  /** Begins to pass messages on, unless the connection itself is what is hit. */
  async open(fault: ProxyFault | undefined): Promise<void> {
    if (fault?.kind === "delay") await delay(fault.delayMs);
    else if (fault) this.#break(fault.kind);
    this.#carry("client", "server");
    this.#carry("server", "client");
  }

  #carry(from: Side, to: Side): void {
    const frame = framerOf(this.#proxy.protocol, from);
    let received: Buffer = Buffer.alloc(0);
    // One after the other, because some are held up.
    let passed: Promise<void> = Promise.resolve();
    const next = (work: () => Promise<void>) => {
      passed = passed.then(work);
    };
    this.#sockets[from].on("data", (chunk) => {
      received = received.length === 0 ? chunk : Buffer.concat([received, chunk]);
      for (let length = frame(received); length > 0; length = frame(received)) {
        const bytes = received.subarray(0, length);
        received = received.subarray(length);
        next(() => this.#pass(from, to, bytes));
      }
    });
    this.#sockets[from].on("end", () => {
      next(async () => {
        if (this.isSilent || this.#isBroken) return;
        await this.#write(to, received);
        this.#sockets[to].end();
      });
    });
  }

  async #pass(from: Side, to: Side, bytes: Buffer): Promise<void> {
    if (this.isSilent || this.#isBroken) return;
    const fault = this.#proxy.arrived(from, bytes);
    if (from === "server" && this.#losesReply) return this.#break("reset");
    if (fault === undefined) return this.#write(to, bytes);
    switch (fault.kind) {
      case "delay":
        await delay(fault.delayMs);
        return this.#write(to, bytes);
      case "slices":
        for (const byte of bytes) {
          await this.#write(to, Buffer.of(byte));
          // Otherwise they are all there when the other side first looks.
          await nextTurn();
        }
        return;
      case "truncate":
        await this.#write(to, bytes.subarray(0, Math.ceil(bytes.length / 2)));
        return this.#break("cut");
      case "lose-reply":
        this.#losesReply = true;
        return this.#write(to, bytes);
      default:
        return this.#break(fault.kind);
    }
  }

  #break(kind: ProxyFaultKind): void {
    const { client, server } = this.#sockets;
    switch (kind) {
      case "black-hole":
        this.isSilent = true;
        break;
      case "close-client":
        this.isSilent = true;
        client.destroySoon();
        break;
      case "close-server":
        this.isSilent = true;
        server.destroySoon();
        break;
      case "reset":
        this.#isBroken = true;
        client.resetAndDestroy();
        server.resetAndDestroy();
        break;
      default:
        this.#isBroken = true;
        client.destroySoon();
        server.destroySoon();
    }
  }

  /** Resolves when the operating system has it, or never will. */
  #write(to: Side, bytes: Buffer): Promise<void> {
    const socket = this.#sockets[to];
    if (bytes.length === 0 || !socket.writable) return Promise.resolve();
    return new Promise((resolve) => {
      socket.write(bytes, () => resolve());
    });
  }

  destroy(): void {
    this.isSilent = false;
    this.#isBroken = true;
    this.#sockets.client.destroy();
    this.#sockets.server.destroy();
  }
}
