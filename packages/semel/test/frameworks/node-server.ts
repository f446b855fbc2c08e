// A server whose end can be waited for, and which counts the connections that are still open.

import type { RequestListener, Server } from "node:http";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import type { Served } from "../../src/testing/framework-suite/index.ts";

/** Listens on a port of the system's choice. */
export async function listen(listener: RequestListener): Promise<Served & { server: Server }> {
  const server = createServer(listener);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const close = () =>
    new Promise<void>((resolve, reject) => {
      server.close((error) => (error ? reject(error) : resolve()));
      server.closeIdleConnections();
    });
  return { port: (server.address() as AddressInfo).port, close, server };
}
