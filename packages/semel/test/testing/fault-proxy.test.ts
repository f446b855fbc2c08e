// The proxy itself, between plain sockets: each fault does what it says, to the message that it names.

import { once } from "node:events";
import { connect, createServer, type Server, type Socket } from "node:net";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import {
  type FaultProxy,
  type FaultProxyOptions,
  faultProxy,
  type ProxyFault,
  type ProxyFaultKind,
  type WireProtocol,
} from "../../src/testing/fault-proxy.ts";
import { framerOf } from "../../src/testing/wire-messages.ts";

const PING = "*1\r\n$4\r\nPING\r\n";
const PONG = "+PONG\r\n";

/** What one end has received, and how its connection ended. */
class End {
  received = "";
  chunks = 0;
  ended: "end" | "reset" | undefined;
  readonly socket: Socket;

  constructor(socket: Socket) {
    this.socket = socket;
    socket.on("data", (chunk) => {
      this.received += chunk.toString("latin1");
      this.chunks++;
    });
    socket.on("end", () => {
      this.ended ??= "end";
    });
    socket.on("error", () => {
      this.ended = "reset";
    });
  }
}

describe("faultProxy()", () => {
  let server: Server;
  let proxy: FaultProxy;
  let client: End;
  let served: End;

  beforeEach(async () => {
    server = createServer({ allowHalfOpen: true }).listen(0, "127.0.0.1");
    await once(server, "listening");
    const { port } = server.address() as { port: number };
    proxy = await faultProxy({ target: { port }, protocol: "redis" });
    await open();
  });

  afterEach(async () => {
    client.socket.destroy();
    await proxy.close();
    server.close();
  });

  async function open(): Promise<void> {
    const accepted = once(server, "connection");
    const socket = connect({ port: proxy.port, host: "127.0.0.1", allowHalfOpen: true });
    client = new End(socket);
    await once(socket, "connect");
    served = new End((await accepted)[0] as Socket);
  }

  /** Two requests in one segment, each answered. */
  async function exchange(): Promise<void> {
    let answered = 0;
    served.socket.on("data", () => {
      const asked = served.received.split(PING).length - 1;
      for (; answered < asked; answered++) served.socket.write(PONG);
    });
    client.socket.write(PING + PING);
  }

  const got = (end: () => End, text: string) => expect.poll(() => end().received).toBe(text);
  const ended = (end: () => End, how: "end" | "reset") => expect.poll(() => end().ended).toBe(how);
  const theClient = () => client;
  const theServer = () => served;

  it("passes on what is said, and how it ends", async () => {
    const messages = await proxy.record(async () => {
      await exchange();
      await got(theClient, PONG + PONG);
    });
    expect(messages.map(({ from, index }) => `${index} ${from}`).toSorted()).toHaveLength(4);
    expect(messages.filter(({ from }) => from === "client")).toHaveLength(2);
    client.socket.end(PING);
    await ended(theServer, "end");
    expect(served.received).toBe(PING + PING + PING);
    served.socket.end("+BYE\r\n");
    await ended(theClient, "end");
    expect(client.received).toBe(`${PONG + PONG + PONG}+BYE\r\n`);
  });

  it.each<[ProxyFaultKind, number, string, "end" | "reset"]>([
    // What stands before a reset may be lost with it, and then hide it.
    ["reset", 0, "", "reset"],
    ["cut", 1, PING, "end"],
    ["truncate", 1, PING + PING.slice(0, 7), "end"],
  ])("%s: breaks both connections at the message that it names", async (kind, at, passed, how) => {
    const happened = proxy.arm({ kind, at });
    client.socket.write(PING + PING);
    await happened;
    await ended(theClient, how);
    await ended(theServer, how);
    expect([served.received, client.received]).toEqual([passed, ""]);
    expect(proxy.injected).toMatchObject({ [kind]: 1 });
  });

  it("lose-reply: lets the server do it, and resets the client", async () => {
    const happened = proxy.arm({
      kind: "lose-reply",
      at: ({ from, bytes }) => from === "client" && bytes.includes("PING"),
    });
    await exchange();
    await happened;
    await ended(theClient, "reset");
    expect(served.received).toBe(PING + PING);
    expect(client.received).toBe("");
  });

  it("delay: holds up the message and what is behind it, in order", async () => {
    const happened = proxy.arm({ kind: "delay", at: 0, delayMs: 20 });
    await exchange();
    await happened;
    await got(theServer, PING + PING);
    await got(theClient, PONG + PONG);
  });

  it("slices: passes the message byte by byte, whole in the end", async () => {
    const large = `$5000\r\n${"x".repeat(5_000)}\r\n`;
    const happened = proxy.arm({ kind: "slices", at: 0 });
    client.socket.write(large);
    await happened;
    await got(theServer, large);
    expect(served.chunks).toBeGreaterThan(10);
  });

  it("black-hole: tells nobody anything, until it is healed", async () => {
    const happened = proxy.arm({ kind: "black-hole", at: 0 });
    client.socket.write(PING);
    await happened;
    served.socket.write(PONG);
    // What comes on another connection shows that the proxy had its chance.
    const [hidden, deaf] = [served, client];
    deaf.socket.destroy();
    await open();
    await exchange();
    await got(theClient, PONG + PONG);
    expect([hidden.received, hidden.ended, deaf.received]).toEqual(["", undefined, ""]);
    proxy.heal();
    await ended(() => hidden, "end");
  });

  it.each([
    ["close-client", theClient, theServer],
    ["close-server", theServer, theClient],
  ] as const)("%s: one side is told, the other when it is healed", async (kind, told, other) => {
    const happened = proxy.arm({ kind, at: 0 });
    client.socket.write(PING);
    await happened;
    await ended(told, "end");
    expect(other().ended).toBeUndefined();
    proxy.heal();
    await ended(other, "end");
  });

  it.each(["reset", "cut"] as const)("%s: of a connection, as it is accepted", async (kind) => {
    void proxy.arm({ kind, at: "connection" });
    const socket = connect({ port: proxy.port, host: "127.0.0.1" });
    const refused = new End(socket);
    await expect.poll(() => refused.ended).toBeDefined();
    expect(proxy.injected[kind]).toBe(1);
  });

  it("hits once, counts from where it was armed, and takes the last order", async () => {
    void proxy.arm({ kind: "reset", at: 0 });
    void proxy.arm({ kind: "delay", at: ({ from }) => from === "server", delayMs: 0 });
    await exchange();
    await got(theClient, PONG + PONG);
    expect(proxy.injected).toMatchObject({ reset: 0, delay: 1 });
    void proxy.arm({ kind: "cut", at: 2 });
    client.socket.write(PING);
    await got(theClient, PONG + PONG + PONG);
    expect(proxy.injected.cut).toBe(0);
  });

  it.each<[FaultProxyOptions, RegExp]>([
    [{ target: { port: 1 }, protocl: "redis" } as FaultProxyOptions, /did you mean `protocol`/],
    [{ target: { port: 0 } }, /`target.port`/],
    [{ target: { port: 1 }, protocol: "http" as WireProtocol }, /`protocol` must be one of/],
  ])("refuses the options %j", async (options, message) => {
    await expect(faultProxy(options)).rejects.toThrow(message);
  });

  it.each<[ProxyFault, RegExp]>([
    [{ kind: "cuts" as ProxyFaultKind, at: 0 }, /did you mean "cut"/],
    [{ kind: "cut", at: -1 }, /`at`/],
    [{ kind: "truncate", at: "connection" }, /`truncate` is of a message/],
    [{ kind: "delay", at: 0, delayMs: 0.5 }, /`delayMs`/],
  ])("refuses the fault %j", (fault, message) => {
    expect(() => proxy.arm(fault)).toThrow(message);
  });
});

describe("messages on the wire", () => {
  /** The lengths of all messages, however the bytes are cut into segments. */
  function lengths(protocol: WireProtocol, bytes: Buffer, side: "client" | "server"): number[][] {
    return [1, 3, bytes.length].map((size) => {
      const frame = framerOf(protocol, side);
      const found: number[] = [];
      let received = Buffer.alloc(0);
      for (let at = 0; at < bytes.length; at += size) {
        received = Buffer.concat([received, bytes.subarray(at, at + size)]);
        for (let length = frame(received); length > 0; length = frame(received)) {
          found.push(length);
          received = received.subarray(length);
        }
      }
      return [...found, -received.length];
    });
  }

  const startup = Buffer.concat([Buffer.of(0, 0, 0, 8, 0, 3, 0, 0)]);
  const sync = Buffer.from("S\0\0\0\x04", "latin1");
  const query = Buffer.from("Q\0\0\0\x0bCOMMIT\0", "latin1");
  const packet = Buffer.from("\x03\0\0\x01abc", "latin1");
  const empty = Buffer.from("\0\0\0\x02", "latin1");

  it.each<[WireProtocol, "client" | "server", Buffer, number[]]>([
    ["postgres", "client", Buffer.concat([startup, query, sync]), [8, 12, 5]],
    ["postgres", "server", Buffer.concat([sync, query]), [5, 12]],
    ["mysql", "client", Buffer.concat([packet, empty, packet]), [7, 4, 7]],
    ["redis", "client", Buffer.from(`${PING}PING\r\n`), [14, 6]],
    ["redis", "server", Buffer.from("$-1\r\n*-1\r\n:5\r\n$3\r\na\r\n\r\n"), [5, 5, 4, 9]],
    ["redis", "server", Buffer.from("*2\r\n*1\r\n$1\r\nx\r\n-no\r\n%1\r\n+a\r\n+b\r\n"), [20, 12]],
    ["redis", "server", Buffer.from("|1\r\n+a\r\n+b\r\n:1\r\n>1\r\n_\r\n"), [16, 7]],
  ])("%s: are told apart by the %s's %j", (protocol, side, bytes, expected) => {
    for (const found of lengths(protocol, bytes, side)) expect(found).toEqual([...expected, -0]);
  });
});
