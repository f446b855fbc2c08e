// The connections to the upstream. Those that are kept are looked after while nobody uses them, because
// one that dies under a keyed request leaves an outcome that nobody knows.

import { Agent, type ClientRequest, type IncomingMessage } from "node:http";
import { connect as connectPlain, isIP, type Socket } from "node:net";
import { connect as connectTls } from "node:tls";
import { fieldLines } from "./headers.ts";

/**
 * Below the shortest time that common servers keep idle connections for, so that requests seldom
 * meet one that is just being closed.
 */
const IDLE_MS = 1_000;
/** As many as Node itself would keep. */
const IDLE_MAX = 256;
/** How long a connection must have stayed open by itself before the upstream is known to keep them. */
const TRUST_MS = 100;
/** How long connecting may take. */
const CONNECT_MS = 10_000;

/** What Node's requests have, and its types do not say. */
type AgentRequest = ClientRequest & {
  onSocket(socket: Socket): void;
  res?: IncomingMessage | null;
};

/** What a request tells the agent, among its options. */
export interface ConnectionWish {
  isFresh: boolean;
  /** How long the upstream may be silent. */
  silenceMs: number;
  /** Hears which connection it is. */
  connected(connection: Connection): void;
}

/** One connection. */
export class Connection {
  readonly socket: Socket;
  /** Whether it came about at all. */
  isEstablished = false;
  /** The request that has it. */
  user: AgentRequest | undefined;
  idleSince = 0;
  /** How long it may be idle; known from its first answer on. */
  idleMs: number | undefined;

  constructor(socket: Socket) {
    this.socket = socket;
  }

  /** What has come behind an answer would be taken for the answer to the next request. */
  get isUsable(): boolean {
    return this.socket.readyState === "open" && this.socket.readableLength === 0;
  }
}

/**
 * An agent of its own, because Node's says neither how long a connection has been idle nor whether it
 * spoke out of turn; and asking it costs as much as half of a request.
 */
export class Connections extends Agent {
  readonly #host: string;
  readonly #port: number;
  readonly #isTls: boolean;
  /** The newest last. */
  readonly #idle: Connection[] = [];
  #session: Buffer | undefined;
  #sweeping: NodeJS.Timeout | undefined;
  #areTrusted = false;
  #distrustedAt = 0;
  #isClosed = false;

  constructor({ protocol, hostname, port }: URL) {
    super({ keepAlive: true });
    this.#isTls = protocol === "https:";
    // `URL` writes IPv6 addresses in brackets, sockets want them bare.
    this.#host = hostname.replace(/^\[(.*)\]$/, "$1");
    this.#port = Number(port || (this.#isTls ? 443 : 80));
    // Node compares it with the request's.
    Object.assign(this, { protocol });
  }

  /**
   * Whether a request whose outcome must be known may use a kept connection: only once the upstream has
   * been seen to keep them. When it closes one unasked, it has to be seen again.
   */
  get areTrusted(): boolean {
    return this.#areTrusted;
  }

  /** Node's requests ask their agent for a connection by this, with their options. */
  addRequest(request: AgentRequest, { wish }: { wish: ConnectionWish }): void {
    const { isFresh, silenceMs } = wish;
    const kept = isFresh ? undefined : this.#take();
    const connection = kept ?? this.#connect(silenceMs);
    const { socket } = connection;
    if (kept && socket.timeout !== silenceMs) socket.setTimeout(silenceMs);
    request.reusedSocket = kept !== undefined;
    connection.user = request;
    wish.connected(connection);
    request.onSocket(socket);
  }

  /** Closes idle connections, and the others when they become so. */
  override destroy(): void {
    this.#isClosed = true;
    for (const { socket } of this.#idle.splice(0)) socket.destroy();
  }

  #take(): Connection | undefined {
    const now = performance.now();
    for (let idle = this.#idle.pop(); idle; idle = this.#idle.pop()) {
      if (now - idle.idleSince < idle.idleMs! && idle.isUsable) return idle;
      idle.socket.destroy();
    }
    return undefined;
  }

  #connect(silenceMs: number): Connection {
    const socket = this.#isTls ? this.#connectTls() : connectPlain(this.#address());
    const connection = new Connection(socket);
    socket.setTimeout(Math.min(CONNECT_MS, silenceMs));
    socket.once(this.#isTls ? "secureConnect" : "connect", () => {
      connection.isEstablished = true;
      socket.setTimeout(silenceMs);
    });
    const onTimeout = () => {
      connection.user?.destroy(new Silence(socket.timeout ?? silenceMs));
      socket.destroy();
    };
    const onData = () => {
      // Nobody has asked for anything.
      if (connection.user === undefined) socket.destroy();
    };
    const onFree = () => this.#freed(connection);
    socket.on("timeout", onTimeout).on("data", onData).on("free", onFree);
    // Between two requests nobody else would hear of it.
    socket.on("error", () => {});
    socket.once("close", () => this.#closed(connection));
    // Upgraded: from now on it is somebody else's.
    socket.once("agentRemove", () => {
      socket.off("timeout", onTimeout).off("data", onData).off("free", onFree).setTimeout(0);
    });
    return connection;
  }

  #address() {
    return { host: this.#host, port: this.#port, noDelay: true, keepAlive: true };
  }

  #connectTls(): Socket {
    const socket = connectTls({
      ...this.#address(),
      servername: isIP(this.#host) ? "" : this.#host,
      ...(this.#session && { session: this.#session }),
    });
    socket.on("session", (session) => {
      this.#session = session;
    });
    return socket;
  }

  #freed(connection: Connection): void {
    const { user, socket } = connection;
    connection.user = undefined;
    const isKept = user?.shouldKeepAlive && !this.#isClosed && this.#idle.length < IDLE_MAX;
    if (isKept) connection.idleMs ??= idleTime(user);
    if (!isKept || connection.idleMs === 0 || !connection.isUsable) {
      socket.destroy();
      return;
    }
    connection.idleSince = performance.now();
    this.#idle.push(connection);
    this.#sweeping ??= setInterval(() => this.#sweep(), TRUST_MS / 2).unref();
  }

  #closed(connection: Connection): void {
    const isIdle = this.#remove(connection);
    const { user } = connection;
    // Neither ended by us nor by an answer that said so.
    const hasDied = user?.reusedSocket && !user.destroyed && !user.res?.complete;
    if (!isIdle && !hasDied) return;
    this.#areTrusted = false;
    this.#distrustedAt = performance.now();
  }

  #remove(connection: Connection): boolean {
    const at = this.#idle.indexOf(connection);
    if (at >= 0) this.#idle.splice(at, 1);
    return at >= 0;
  }

  /** Closes what has been idle for long, before the upstream does, and sees what stayed open. */
  #sweep(): void {
    const now = performance.now();
    for (const connection of [...this.#idle]) {
      const { idleSince, idleMs } = connection;
      const age = now - idleSince;
      if (idleSince > this.#distrustedAt && age >= TRUST_MS) this.#areTrusted = true;
      if (age < idleMs!) continue;
      this.#remove(connection);
      connection.socket.destroy();
    }
    if (this.#idle.length > 0) return;
    clearInterval(this.#sweeping);
    this.#sweeping = undefined;
  }
}

/** The upstream was silent for too long. */
export class Silence extends Error {
  constructor(ms: number) {
    super(`silent for ${ms} ms`);
  }
}

/** Half of what the upstream says that it keeps connections for, if that is less. */
function idleTime({ res }: AgentRequest): number {
  const said = fieldLines(res?.rawHeaders ?? [], "keep-alive").join();
  const seconds = /(?:^|[,;]\s*)timeout=(\d+)/i.exec(said)?.[1];
  return seconds === undefined ? IDLE_MS : Math.min(IDLE_MS, (Number(seconds) * 1_000) / 2);
}
