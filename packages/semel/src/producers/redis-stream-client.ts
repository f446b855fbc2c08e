// One way to send commands of streams through either client of Redis.

import { InvalidOption } from "../errors.ts";

/** `new Redis()` of `ioredis` or `iovalkey`. */
export interface IoredisStreamClient {
  readonly status: string;
  callBuffer(command: string, ...args: (string | Buffer | number)[]): Promise<unknown>;
}

/** `createClient()` of `redis`. */
export interface NodeRedisStreamClient {
  readonly isOpen: boolean;
  sendCommand(args: (string | Buffer)[], options?: object): Promise<unknown>;
}

export type RedisStreamClient = IoredisStreamClient | NodeRedisStreamClient;

export type Send = (name: string, ...args: (string | Buffer)[]) => Promise<unknown>;

/** `RESP_TYPES.BLOB_STRING` of `redis`: strings come as bytes. */
const AS_BYTES = { typeMapping: { 36: Buffer } };

/** @throws {InvalidOption} when it is neither */
export function sender(client: RedisStreamClient, option: string): Send {
  if ("callBuffer" in client) return (name, ...args) => client.callBuffer(name, ...args);
  if ("sendCommand" in client) return (...command) => client.sendCommand(command, AS_BYTES);
  throw new InvalidOption(
    `\`${option}\` must be a client of \`ioredis\` (\`new Redis()\`) or of \`redis\` (\`createClient()\`)`,
  );
}
