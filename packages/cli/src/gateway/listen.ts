// Opens the listening socket, or takes one over: from a predecessor that hands its own on, or from a
// service manager that keeps it while the gateway is started anew (`LISTEN_FDS`, sd_listen_fds(3)).

import type { Server } from "node:http";
import type { AddressInfo } from "node:net";
import { Failure } from "../failure.ts";
import type { ListenAddress } from "../flags.ts";

/** Where a predecessor says which descriptor is whose: `--listen=4,--admin=5`. */
export const HANDED_ON = "SEMEL_LISTEN_FDS";
/** The first descriptor that a service manager hands over. */
const FIRST_FD = 3;

const inherited = inheritedSockets(process.env, process.pid);
// Neither is meant for what this process starts.
for (const name of [HANDED_ON, "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"]) {
  delete process.env[name];
}

/** What this process listens on, by the flag that says where. */
export const listening = new Map<string, Server>();

/**
 * @param flag the one that says where
 * @returns the address that is listened on, as a URL
 */
export function listen(
  server: Server,
  { host, port }: ListenAddress,
  flag = "--listen",
): Promise<string> {
  const fd = inherited.get(flag);
  const where = fd === undefined ? written(host, port) : `descriptor ${fd}`;
  return new Promise((resolve, reject) => {
    const onError = (cause: NodeJS.ErrnoException) => {
      const why = REMEDIES[cause.code ?? ""] ?? cause.message;
      reject(new Failure(`${flag} ${where}: ${why}`, { cause }));
    };
    server.once("error", onError);
    server.listen(fd === undefined ? { host, port } : { fd }, () => {
      server.off("error", onError);
      listening.set(flag, server);
      resolve(addressOf(server, host));
    });
  });
}

/** Which descriptors are whose, as whoever started this process says. */
export function inheritedSockets(
  environment: NodeJS.ProcessEnv,
  pid: number,
): ReadonlyMap<string, number> {
  const sockets = new Map<string, number>();
  for (const [, flag, fd] of environment[HANDED_ON]?.matchAll(/(--[a-z]+)=(\d+)/g) ?? []) {
    sockets.set(flag!, Number(fd));
  }
  if (environment["LISTEN_PID"] !== String(pid)) return sockets;
  const names = environment["LISTEN_FDNAMES"]?.split(":") ?? [];
  for (let at = 0; at < Number(environment["LISTEN_FDS"]); at++) {
    const flag = names[at] === "admin" ? "--admin" : "--listen";
    if (!sockets.has(flag)) sockets.set(flag, FIRST_FD + at);
  }
  return sockets;
}

function addressOf(server: Server, host: string): string {
  const address = server.address() as AddressInfo | string | null;
  if (address === null || typeof address === "string") return `unix:${address ?? ""}`;
  // A name stays as it was given; what was taken over has only its address.
  return `http://${written(inherited.size > 0 ? address.address : host, address.port)}`;
}

const REMEDIES: Record<string, string> = {
  EADDRINUSE:
    "the address is in use; stop what listens there, or choose another one, written HOST:PORT",
  EACCES: "this user may not listen there; choose a port from 1024 up",
  EADDRNOTAVAIL: "this machine has no such address; choose one that it has, such as 127.0.0.1",
  ENOTFOUND: "there is no such host; choose an address of this machine, such as 127.0.0.1",
  EINVAL: "it is no listening socket; see how this process was started",
  EBADF: "it is not open; see how this process was started",
};

function written(host: string, port: number): string {
  return host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`;
}
