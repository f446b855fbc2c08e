// HTTP as bytes on a socket, for what no client library would send.

import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { later } from "./processes.ts";

export interface RawConnection {
  readonly socket: Socket;
  write(text: string): void;
  /** What has come so far. */
  received(): string;
  /** Waits until what has come contains a text. Fails when the connection ends before. */
  until(text: string): Promise<string>;
  /** Waits for the other side to close. @returns everything that came */
  closed(): Promise<string>;
}

export async function rawConnection(port: number): Promise<RawConnection> {
  const socket = connect(port, "127.0.0.1");
  later(() => socket.destroy());
  let text = "";
  let isClosed = false;
  const waiting = new Set<() => void>();
  const changed = () => {
    for (const look of waiting) look();
  };
  socket.setEncoding("latin1");
  socket.on("data", (chunk) => {
    text += chunk;
    changed();
  });
  socket.on("error", () => {});
  socket.on("close", () => {
    isClosed = true;
    changed();
  });
  await once(socket, "connect");
  const waitFor = (isDone: () => boolean, mayClose: boolean) =>
    new Promise<string>((resolve, reject) => {
      const look = () => {
        if (!isDone() && !isClosed) return;
        waiting.delete(look);
        if (isDone() || mayClose) resolve(text);
        else reject(new Error(`the connection closed after ${JSON.stringify(text)}`));
      };
      waiting.add(look);
      look();
    });
  return {
    socket,
    write: (bytes) => socket.write(bytes, "latin1"),
    received: () => text,
    until: (wanted) => waitFor(() => text.includes(wanted), false),
    closed: () => waitFor(() => false, true),
  };
}

/** A request as text, with `\r\n` line ends. */
export function message(...lines: string[]): string {
  return `${lines.join("\r\n")}\r\n\r\n`;
}
