// HTTP as bytes: what is sent is written out, what comes back is read answer by answer.

import { connect } from "node:net";
import { inTime } from "../../src/testing/framework-suite/index.ts";

export interface RawAnswer {
  status: number;
  /** Field lines as they came, names in lower case. */
  lines: readonly (readonly [name: string, value: string])[];
  /** One character a byte. */
  body: string;
}

/** A request as text. `lines` may hold anything; a body adds its `Content-Length`. */
export function request(
  lines: readonly string[],
  body?: string,
  target = "POST / HTTP/1.1",
): string {
  const length = body === undefined ? [] : [`Content-Length: ${Buffer.byteLength(body, "latin1")}`];
  const head = [target, "Host: a", ...lines, ...length];
  return `${head.join("\r\n")}\r\n\r\n${body ?? ""}`;
}

/** The same, as the last one of its connection. */
export function lastRequest(lines: readonly string[], body?: string, target?: string): string {
  return request(["Connection: close", ...lines], body, target);
}

/** Sends bytes, one character each, and reads until the server closes. */
export async function speak(port: number, bytes: string): Promise<RawAnswer[]> {
  const socket = connect(port, "127.0.0.1");
  let text = "";
  socket.setEncoding("latin1");
  socket.on("data", (chunk) => {
    text += chunk;
  });
  // A server that refuses closes while bytes are still on the way.
  socket.on("error", () => {});
  const closed = new Promise((resolve) => socket.once("close", resolve));
  socket.write(bytes, "latin1");
  try {
    await inTime(closed, `the connection's end (so far: ${JSON.stringify(text)})`);
  } finally {
    socket.destroy();
  }
  return answersIn(text);
}

/** The only answer. */
export async function only(port: number, bytes: string): Promise<RawAnswer> {
  const answers = await speak(port, bytes);
  if (answers.length !== 1)
    throw new Error(`${answers.length} answers: ${JSON.stringify(answers)}`);
  return answers[0]!;
}

export function line(answer: RawAnswer, name: string): string | undefined {
  return answer.lines.find(([field]) => field === name)?.[1];
}

/** What of an answer tells something: all but the time of day. */
export function told({ status, lines, body }: RawAnswer): unknown {
  const timeless = lines.filter(([name]) => name !== "date" && name !== "idempotency-expires");
  return { status, lines: timeless, body };
}

/** The code of a problem. */
export function code(answer: RawAnswer): unknown {
  return JSON.parse(answer.body).code;
}

function answersIn(text: string): RawAnswer[] {
  const answers: RawAnswer[] = [];
  let rest = text;
  while (rest !== "") {
    const end = rest.indexOf("\r\n\r\n");
    if (end < 0) throw new Error(`no whole head in ${JSON.stringify(rest)}`);
    const [first = "", ...fields] = rest.slice(0, end).split("\r\n");
    const status = Number(/^HTTP\/1\.1 (\d{3}) /.exec(first)?.[1]);
    if (!status) throw new Error(`no status line: ${JSON.stringify(first)}`);
    const lines = fields.map((field): [string, string] => {
      const colon = field.indexOf(":");
      return [field.slice(0, colon).toLowerCase(), field.slice(colon + 1).trim()];
    });
    const [body, after] = bodyOf({ status, lines, body: "" }, rest.slice(end + 4));
    answers.push({ status, lines, body });
    rest = after;
  }
  return answers;
}

function bodyOf(head: RawAnswer, text: string): [body: string, rest: string] {
  if (head.status < 200 || head.status === 204 || head.status === 304) return ["", text];
  if (line(head, "transfer-encoding") === "chunked") return dechunked(text);
  const length = line(head, "content-length");
  return length === undefined
    ? [text, ""]
    : [text.slice(0, Number(length)), text.slice(Number(length))];
}

function dechunked(text: string): [body: string, rest: string] {
  let body = "";
  let rest = text;
  for (;;) {
    const end = rest.indexOf("\r\n");
    const size = Number.parseInt(rest.slice(0, end), 16);
    if (!(size >= 0)) throw new Error(`no chunk in ${JSON.stringify(rest)}`);
    if (size === 0) return [body, rest.slice(end + 4)];
    body += rest.slice(end + 2, end + 2 + size);
    rest = rest.slice(end + 4 + size);
  }
}
