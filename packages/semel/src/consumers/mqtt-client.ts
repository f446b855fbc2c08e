// What is needed of `mqtt`, by structure, and what a client says of its session.

import { InvalidOption } from "../errors.ts";

/** An `IPublishPacket` of `mqtt`. */
export interface MqttPacket {
  qos: 0 | 1 | 2;
  retain: boolean;
  topic: string;
  payload: string | Buffer;
  properties?: { userProperties?: Record<string, string | string[]> };
}

export interface MqttMessage {
  readonly topic: string;
  readonly payload: Buffer;
  readonly packet: MqttPacket;
}

/** `connect()` of `mqtt`, for this consumer alone. */
export interface MqttConsumer {
  readonly connected: boolean;
  readonly reconnecting: boolean;
  /** In seconds. */
  readonly keepalive: number;
  readonly options: {
    readonly clean?: boolean | undefined;
    readonly protocolVersion?: number | undefined;
    readonly properties?: { readonly sessionExpiryInterval?: number | undefined } | undefined;
    customHandleAcks?(topic: string, payload: Buffer, packet: MqttPacket, done: Done): void;
  };
  handleMessage(packet: MqttPacket, done: () => void): void;
  subscribeAsync(topic: string, options: { qos: 1 | 2 }): Promise<unknown>;
  sendPing(): void;
  reschedulePing(force: boolean): void;
  on(event: "close", listener: () => void): unknown;
  once(event: "connect", listener: () => void): unknown;
  removeListener(event: "connect", listener: () => void): unknown;
}

type Done = (error: Error | number, reasonCode?: number) => void;

/** MQTT 5 §3.1.2.11.2: a session that never expires. */
const NEVER_SECONDS = 0xffff_ffff;

/** For how long the broker keeps what the client has not acknowledged, while it is away; 0 when unknown. */
export function sessionMs({ options }: MqttConsumer): number {
  const seconds = options.properties?.sessionExpiryInterval ?? 0;
  return seconds >= NEVER_SECONDS ? Number.POSITIVE_INFINITY : seconds * 1_000;
}

/**
 * Refuses a client whose session ends with its connection: the broker would forget what it has not
 * acknowledged, and deliver nothing again.
 *
 * @throws {InvalidOption}
 */
export function assertLastingSession({ options }: MqttConsumer): void {
  const { clean, protocolVersion, properties } = options;
  if (clean !== false) {
    throw new InvalidOption(
      "`client` begins a new session at every connection, and loses what it has not acknowledged: connect with `clean: false` and a `clientId` that stays the same",
    );
  }
  // MQTT 5 §3.1.2.11.2: without one the session ends with the connection. Before, it has no end.
  if (protocolVersion === 5 && !((properties?.sessionExpiryInterval ?? 0) > 0)) {
    throw new InvalidOption(
      "`client` has a session that ends with its connection, and loses what it has not acknowledged: connect with `properties: { sessionExpiryInterval: 604_800 }`, in seconds",
    );
  }
}
