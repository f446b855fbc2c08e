// A proxy before a database that loses the connection at the worst moment: around a COMMIT.

import { once } from "node:events";
import { connect, createServer, type Socket } from "node:net";

/** Where the connection is cut, once: the server never sees the commit, or its reply is lost. */
export type Cut = "before-commit" | "after-commit";

export interface CuttingProxy {
  readonly port: number;
  /** The next commit that passes is cut. */
  cut(where: Cut): void;
  /** How many have been. */
  readonly cuts: number;
  close(): Promise<void>;
}

/** Starts a proxy before a server on this machine. */
export async function cuttingProxy(serverPort: number): Promise<CuttingProxy> {
  let armed: Cut | undefined;
  let cuts = 0;
  const sockets = new Set<Socket>();
  const server = createServer((client) => {
    const upstream = connect(serverPort, "127.0.0.1");
    let isReplyCut = false;
    const reset = () => {
      cuts++;
      // A reset, not an end: the client is told that something went wrong.
      client.resetAndDestroy();
      upstream.destroy();
    };
    for (const socket of [client, upstream]) {
      sockets.add(socket);
      socket.on("error", () => {});
      socket.on("close", () => {
        sockets.delete(socket);
        client.destroy();
        upstream.destroy();
      });
    }
    client.on("data", (chunk) => {
      if (armed !== undefined && /\bcommit\b/i.test(chunk.toString("latin1"))) {
        const where = armed;
        armed = undefined;
        if (where === "before-commit") return reset();
        isReplyCut = true;
      }
      upstream.write(chunk);
    });
    upstream.on("data", (chunk) => {
      if (isReplyCut) reset();
      else client.write(chunk);
    });
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as { port: number };
  return {
    port,
    cut: (where) => {
      armed = where;
    },
    get cuts() {
      return cuts;
    },
    close: async () => {
      for (const socket of sockets) socket.destroy();
      server.close();
      await once(server, "close");
    },
  };
}
