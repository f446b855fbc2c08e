// Redis Streams: consumer groups, acknowledged after the commit, stale deliveries taken over from
// consumers that died, dead letters in a stream of their own (MSG-2).

import { hostname } from "node:os";
import { type Duration, durationMs } from "../duration.ts";
import type { Inbox } from "../engine/inbox/inbox.ts";
import { InvalidOption } from "../errors.ts";
import { ID_NAME } from "../producers/effect.ts";
import { type RedisStreamClient, type Send, sender } from "../producers/redis-stream-client.ts";
import { type ConsumeOptions, type Consumption, Intake } from "./consumption.ts";
import type { MessageHandler, Settling } from "./deliveries.ts";
import { idOfBytes } from "./message-id.ts";

export { publishStream, type StreamPublishOptions } from "../producers/redis-streams.ts";
export type { ConsumeOptions, Consumption } from "./consumption.ts";
export type { BatchHandler, DeliveryReport, MessageHandler } from "./deliveries.ts";
export type { RedisStreamClient };

/** An entry of a stream. */
export interface StreamMessage {
  /** The entry's id, such as `1763797200000-0`. */
  readonly id: string;
  readonly fields: Readonly<Record<string, Buffer>>;
}

/** What is consumed, and through which connections. */
export interface StreamSource {
  client: RedisStreamClient;
  /** A connection of its own, `client.duplicate()`: while it waits for entries it does nothing else. */
  blocking: RedisStreamClient;
  stream: string;
  /** The consumer group; it is created, from the stream's beginning, where it does not exist. */
  group: string;
}

export interface StreamOptions extends ConsumeOptions<StreamMessage> {
  /** This consumer's name in the group. @default host name and process id */
  name?: string | undefined;
  /**
   * How long a delivery may be idle before another consumer takes it over: after a crash, and also
   * the pause before a message that failed or was busy is delivered again. @default "30s"
   */
  claimIdle?: Duration | undefined;
  /** Where dead letters go, with a field `semel-reason`. @default the stream's name with `:dead` */
  deadLetterStream?: string | undefined;
}

/** How long one read waits; consuming ends no later than this after `close()`. */
const BLOCK_MS = 1_000;

/**
 * Consumes a stream of Redis or Valkey through an inbox.
 *
 * The id is the field `idempotency-key`, which {@link publishStream} sets; without it stream and entry
 * id, which is the same for redeliveries only.
 *
 * @throws {InvalidOption}
 * @example
 * const source = { client, blocking: client.duplicate(), stream: "orders", group: "billing" };
 * const consumption = consumeStream(inbox, source, {
 *    handler: ({ fields }) => bill(JSON.parse(String(fields.order))),
 * });
 * await consumption.closed;
 */
export function consumeStream<Transaction>(
  inbox: Inbox<Transaction>,
  source: StreamSource,
  options: StreamOptions & MessageHandler<StreamMessage, Transaction>,
): Consumption {
  const own = ["name", "claimIdle", "deadLetterStream"];
  const intake = new Intake(inbox, options, "consumeStream()", own);
  const { client, blocking, stream, group } = source;
  if ((client as unknown) === blocking) {
    throw new InvalidOption("`blocking` must be a connection of its own: `client.duplicate()`");
  }
  const send = sender(client, "client");
  const read = sender(blocking, "blocking");
  const { name = `${hostname()}-${process.pid}`, deadLetterStream = `${stream}:dead` } = options;
  const claimIdleMs = durationMs(options.claimIdle ?? "30s", "claimIdle", { minMs: 10 });
  let cursor = "0-0";
  let claimAt = 0;

  let hasGroup = false;
  // The clients connect again by themselves, until they are closed.
  const isOver = (error: unknown) =>
    isClosed(client) || isClosed(blocking) || error instanceof InvalidOption;
  return intake.start(() => intake.poll(take, isOver));

  async function take(room: number): Promise<void> {
    if (!hasGroup) await createGroup(send, stream, group);
    // Whatever fails now, the server may have lost the group.
    hasGroup = false;
    for (const entry of await next(room)) receive(entry);
    hasGroup = true;
  }

  /** Stale deliveries when it is time to look for them, otherwise new ones. */
  async function next(count: number): Promise<Entry[]> {
    if (performance.now() >= claimAt) {
      const bounds = [String(claimIdleMs), cursor, "COUNT", String(count)];
      const reply = await send("XAUTOCLAIM", stream, group, name, ...bounds);
      const [continued, stale] = reply as [Buffer, RawEntry[]];
      cursor = continued.toString();
      if (cursor === "0-0") claimAt = performance.now() + claimIdleMs / 2;
      const entries = entriesOf(stale);
      if (entries.length > 0 || cursor !== "0-0") return entries;
    }
    const waitMs = Math.max(1, Math.min(BLOCK_MS, Math.ceil(claimAt - performance.now())));
    const asked = ["GROUP", group, name, "COUNT", String(count), "BLOCK", String(waitMs)];
    const reply = await read("XREADGROUP", ...asked, "STREAMS", stream, ">");
    if (reply === null) return [];
    if (!Array.isArray(reply)) {
      throw new InvalidOption("`blocking` must speak RESP 2, the default of `ioredis` and `redis`");
    }
    return entriesOf(reply[0][1]);
  }

  function receive({ id: entry, pairs }: Entry): void {
    const fields: Record<string, Buffer> = Object.create(null);
    for (let at = 0; at + 1 < pairs.length; at += 2) fields[String(pairs[at])] = pairs[at + 1]!;
    const settling: Settling = {
      heartbeat: {
        everyMs: claimIdleMs / 3,
        // Taken over by its own consumer: it is no longer idle.
        beat: () => send("XCLAIM", stream, group, name, "0", entry, "IDLE", "0", "JUSTID"),
      },
      ack: () => send("XACK", stream, group, entry),
      // It stays pending, and is delivered again once it has been idle for long enough.
      retry: () => {},
      async reject(reason) {
        const why = ["semel-reason", reason, "semel-entry", entry];
        await send("XADD", deadLetterStream, "*", ...pairs, ...why);
        await send("XACK", stream, group, entry);
      },
    };
    const id = idOfBytes(fields[ID_NAME]) || `${stream}:${entry}`;
    const named = { id, payload: pairs };
    void intake.receive({ id: entry, fields }, named, settling);
  }
}

/** An entry with its fields and values in turn. */
interface Entry {
  id: string;
  pairs: Buffer[];
}

type RawEntry = [Buffer, Buffer[] | null] | null;

/** Entries that were deleted while they were pending have no fields any more. */
function entriesOf(raw: RawEntry[]): Entry[] {
  return raw.flatMap((entry) => (entry?.[1] ? [{ id: entry[0].toString(), pairs: entry[1] }] : []));
}

async function createGroup(send: Send, stream: string, group: string): Promise<void> {
  try {
    await send("XGROUP", "CREATE", stream, group, "0", "MKSTREAM");
  } catch (error) {
    if (!(error instanceof Error && error.message.startsWith("BUSYGROUP"))) throw error;
  }
}

function isClosed(client: RedisStreamClient): boolean {
  return "isOpen" in client ? !client.isOpen : client.status === "end";
}
