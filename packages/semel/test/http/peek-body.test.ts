// A body that was read for its fingerprint can be read again, in every way that Node knows.

import { once } from "node:events";
import { createServer, request as httpRequest, type IncomingMessage } from "node:http";
import { type AddressInfo, connect } from "node:net";
import { PassThrough, Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { BodyIncomplete, BodyTooLarge } from "../../src/errors.ts";
import { hasBody, isConsumed, peekBody } from "../../src/http/node-body.ts";

type Handler = (request: IncomingMessage) => Promise<unknown>;

let handler: Handler = async () => {};
/** What the handler of the last request returned or threw. */
let handled: Promise<unknown> = Promise.resolve();

const server = createServer((request, response) => {
  handled = handler(request);
  handled.then(
    () => response.end("done"),
    () => response.writeHead(400).end("failed"),
  );
});

beforeAll(async () => {
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
});
afterAll(() => {
  server.closeAllConnections();
  server.close();
});

const port = () => (server.address() as AddressInfo).port;

/** Sends chunks, and returns what the handler made of them. */
async function handledWith(chunks: readonly (string | Uint8Array)[], handle: Handler) {
  handler = handle;
  const request = httpRequest({ port: port(), host: "127.0.0.1", method: "POST", agent: false });
  const answered = once(request, "response").then(([response]) => response.resume());
  request.flushHeaders();
  for (const chunk of chunks) {
    await new Promise((resolve) => request.write(chunk, resolve));
  }
  request.end();
  await answered;
  return handled;
}

/** How a body is framed, and when it is there: by its length at once, otherwise at its end. */
const DECLARED = ["Content-Length: 5\r\n\r\nhello", async () => {}] as const;
const CHUNKED = [
  "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
  () => new Promise<void>((resolve) => setImmediate(resolve)),
] as const;
const BIG = Buffer.alloc(500_000, "abcdefghij");
const MAX = 2 ** 20;

const READERS: Record<string, (request: IncomingMessage) => Promise<Buffer>> = {
  async "data and end events"(request) {
    const chunks: Buffer[] = [];
    request.on("data", (chunk) => chunks.push(chunk));
    await once(request, "end");
    return Buffer.concat(chunks);
  },
  async "for await"(request) {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk);
    return Buffer.concat(chunks);
  },
  async "readable and read()"(request) {
    const chunks: Buffer[] = [];
    request.on("readable", () => {
      for (let chunk = request.read(); chunk !== null; chunk = request.read()) chunks.push(chunk);
    });
    await once(request, "end");
    return Buffer.concat(chunks);
  },
  async pipe(request) {
    return Buffer.concat(await request.pipe(new PassThrough()).toArray());
  },
  async pipeline(request) {
    const sink = new PassThrough();
    const [, chunks] = await Promise.all([pipeline(request, sink), sink.toArray()]);
    return Buffer.concat(chunks);
  },
  async "a web stream"(request) {
    const body = Readable.toWeb(request) as ReadableStream<Uint8Array>;
    return Buffer.from(await new Response(body).arrayBuffer());
  },
  async "a fetch that passes it on"(request) {
    expect(Readable.isDisturbed(request)).toBe(false);
    const body = { method: "POST", body: request, duplex: "half" } as unknown as RequestInit;
    const onward = new Request("http://localhost/", body);
    return Buffer.from(await onward.arrayBuffer());
  },
};

const BODIES: Record<string, readonly (string | Uint8Array)[]> = {
  "an empty chunked body": [],
  "one chunk": ["hello"],
  "many chunks": ["a", BIG.subarray(0, 70_000), "b", BIG.subarray(0, 200_000), "c"],
  "500 kB": [BIG],
};

describe("peekBody", () => {
  for (const [how, read] of Object.entries(READERS)) {
    for (const [what, chunks] of Object.entries(BODIES)) {
      for (const when of ["at once", "a turn later"]) {
        test(`leaves ${what} to ${how}, ${when}`, async () => {
          const whole = Buffer.concat(chunks.map((chunk) => Buffer.from(chunk)));
          await handledWith(chunks, async (request) => {
            let ends = 0;
            request.on("end", () => {
              ends++;
            });
            const listeners = request.eventNames().length;
            const peeked = await peekBody(request, MAX);
            expect(request.eventNames().length).toBe(listeners);
            expect(whole.equals(peeked)).toBe(true);
            expect(ends).toBe(0);
            if (when === "a turn later") await new Promise((resolve) => setTimeout(resolve, 5));
            expect(whole.equals(await read(request))).toBe(true);
            expect(ends).toBe(1);
          });
        });
      }
    }
  }

  for (const encoding of ["utf8", "latin1", "base64", "hex", "utf16le"] as const) {
    test(`leaves a body that somebody reads as ${encoding} to be read so`, async () => {
      const body = Buffer.from("äöü€🙂 and more", encoding === "utf16le" ? encoding : "utf8");
      // In the middle of a character, and of three bytes.
      for (const chunks of [[body], [body.subarray(0, 8), body.subarray(8)]]) {
        await handledWith(chunks, async (request) => {
          request.setEncoding(encoding);
          const peeked = await peekBody(request, MAX);
          expect(body.equals(peeked)).toBe(true);
          await new Promise((resolve) => setTimeout(resolve, 5));
          let text = "";
          for await (const chunk of request) text += chunk;
          expect(text).toBe(body.toString(encoding));
        });
      }
    });
  }

  test("rejects with what reading throws, and ends no process by it", async () => {
    const broken = handledWith(["half", "whole"], async (request) => {
      const { read } = request;
      request.read = (size) => {
        if (size === 0) return read.call(request, size);
        request.read = read;
        throw new Error("broken by a subclass");
      };
      await peekBody(request, MAX);
    });
    await expect(broken).rejects.toThrow("broken by a subclass");
  });

  test("can be repeated", async () => {
    await handledWith(["hello"], async (request) => {
      for (let n = 0; n < 3; n++) {
        expect(Buffer.from(await peekBody(request, MAX)).toString()).toBe("hello");
      }
    });
  });

  test("reads a body that had arrived before", async () => {
    await handledWith(["hello"], async (request) => {
      while (!request.complete) await new Promise((resolve) => setImmediate(resolve));
      expect(Buffer.from(await peekBody(request, MAX)).toString()).toBe("hello");
      expect(Buffer.concat(await request.toArray()).toString()).toBe("hello");
    });
  });

  test("looks at a body that came in one packet with the head where it lies", async () => {
    for (const [how, read] of Object.entries(READERS)) {
      for (const [framing, arrival] of [DECLARED, CHUNKED]) {
        const handling = new Promise<void>((resolve, reject) => {
          handler = async (request) => {
            await arrival();
            const before = request.eventNames();
            const peeked = peekBody(request, MAX);
            expect(request.eventNames(), how).toEqual(before);
            expect(request.readableDidRead).toBe(false);
            expect((await peeked).toString()).toBe("hello");
            expect((await read(request)).toString(), how).toBe("hello");
            expect(request.complete).toBe(true);
          };
          server.once("request", () => handled.then(() => resolve(), reject));
        });
        const socket = connect(port(), "127.0.0.1");
        socket.write(`POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n${framing}`);
        await handling;
        socket.resume();
        await once(socket, "close");
      }
    }
  });

  test("stops at the bound, with a declared length before anything is read", async () => {
    await handledWith(["123", "456"], async (request) => {
      expect(hasBody(request)).toBe(true);
      await expect(peekBody(request, 5)).rejects.toThrow(BodyTooLarge);
      request.resume();
    });
    await handledWith(["123", "456"], async (request) => {
      await expect(peekBody(request, 6)).resolves.toHaveLength(6);
    });
  });

  test("reports a body that never became whole, also when it is asked late", async () => {
    for (const isLate of [false, true]) {
      handler = async (request) => {
        if (isLate) await new Promise((resolve) => request.on("close", resolve));
        await peekBody(request, MAX);
      };
      const socket = connect(port(), "127.0.0.1");
      const arrived = once(server, "request");
      socket.write("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf");
      await arrived;
      socket.resetAndDestroy();
      await expect(handled).rejects.toThrow(BodyIncomplete);
    }
  });

  test("is not needed where there is no body", async () => {
    handler = async (request) => {
      expect(hasBody(request)).toBe(false);
      expect(isConsumed(request)).toBe(false);
    };
    for (const headers of [{}, { "Content-Length": "0" }]) {
      const address = { port: port(), host: "127.0.0.1", agent: false } as const;
      const request = httpRequest({ ...address, method: "POST", headers }).end();
      const [response] = await once(request, "response");
      expect(response.resume().statusCode).toBe(200);
      await handled;
    }
  });
});
