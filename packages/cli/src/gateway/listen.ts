// Opens the listening socket, and says what to do where that fails.

import type { Server } from "node:http";
import type { AddressInfo } from "node:net";
import { Failure } from "../failure.ts";
import type { ListenAddress } from "../flags.ts";

/** @returns the address that is listened on, as a URL */
export function listen(server: Server, { host, port }: ListenAddress): Promise<string> {
  return new Promise((resolve, reject) => {
    const onError = (cause: NodeJS.ErrnoException) => {
      const why = REMEDIES[cause.code ?? ""] ?? cause.message;
      reject(new Failure(`--listen ${written(host, port)}: ${why}`, { cause }));
    };
    server.once("error", onError);
    server.listen({ host, port }, () => {
      server.off("error", onError);
      resolve(`http://${written(host, (server.address() as AddressInfo).port)}`);
    });
  });
}

const REMEDIES: Record<string, string> = {
  EADDRINUSE:
    "the address is in use; stop what listens there, or choose another one with --listen HOST:PORT",
  EACCES: "this user may not listen there; choose a port from 1024 up",
  EADDRNOTAVAIL: "this machine has no such address; choose one that it has, such as 127.0.0.1",
  ENOTFOUND: "there is no such host; choose an address of this machine, such as 127.0.0.1",
};

function written(host: string, port: number): string {
  return host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`;
}
