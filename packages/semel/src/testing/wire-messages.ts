// Where one message ends and the next begins, in the protocols that stores speak. Nothing here looks
// further into them.

/** One of the two that speak. */
export type Side = "client" | "server";

/** `"chunks"`: any protocol; what arrives at once is a message. */
export type WireProtocol = "postgres" | "mysql" | "redis" | "chunks";

/** The length of the first message in what was received; 0 while it is not whole. */
export type Framer = (received: Buffer) => number;

/** Tells apart the messages of one side of one connection, which must begin with its first byte. */
export function framerOf(protocol: WireProtocol, side: Side): Framer {
  switch (protocol) {
    case "postgres":
      return postgresFramer(side);
    case "mysql":
      return mysqlPacket;
    case "redis":
      return (received) => Math.max(0, respEnd(received, 0));
    case "chunks":
      return (received) => received.length;
  }
}

/**
 * A type of one byte, then the length of the rest; a client's first message has no type
 * (PostgreSQL documentation, "Message Formats").
 */
function postgresFramer(side: Side): Framer {
  let isTyped = side === "server";
  return (received) => {
    const at = isTyped ? 1 : 0;
    if (received.length < at + 4) return 0;
    const length = at + received.readUInt32BE(at);
    if (received.length < length) return 0;
    isTyped = true;
    return length;
  };
}

/** Three bytes of length, one of sequence, the payload (MySQL Internals, "MySQL Packets"). */
function mysqlPacket(received: Buffer): number {
  if (received.length < 4) return 0;
  const length = 4 + received.readUIntLE(0, 3);
  return received.length < length ? 0 : length;
}

const CRLF = "\r\n";

/** Where a value of RESP2 or RESP3 that begins at `at` ends; -1 while it is not whole. */
function respEnd(received: Buffer, at: number): number {
  const lineEnd = received.indexOf(CRLF, at);
  if (lineEnd < 0) return -1;
  const end = lineEnd + CRLF.length;
  const count = () => Number(received.toString("latin1", at + 1, lineEnd));
  switch (String.fromCharCode(received[at]!)) {
    case "$":
    case "=":
    case "!": {
      const length = count();
      const bulkEnd = length < 0 ? end : end + length + CRLF.length;
      return bulkEnd <= received.length ? bulkEnd : -1;
    }
    case "*":
    case "~":
    case ">":
      return respEnds(received, end, count());
    case "%":
      return respEnds(received, end, 2 * count());
    case "|":
      // Attributes, and the value that they are of.
      return respEnds(received, end, 2 * count() + 1);
    default:
      return end;
  }
}

function respEnds(received: Buffer, at: number, values: number): number {
  let end = at;
  for (let value = 0; value < values && end >= 0; value++) end = respEnd(received, end);
  return end;
}
