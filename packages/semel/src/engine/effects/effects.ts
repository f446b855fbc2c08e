// The outgoing effects of an operation (EN-8): recorded with what it does, delivered by a relay. An
// effect is known by its name and key within its operation, so that an attempt that records it again
// adds nothing.

import { type Duration, durationMs } from "../../duration.ts";
import {
  AttemptSuperseded,
  EffectInvalid,
  InvalidOption,
  NotSerializable,
  OperationFailed,
  StoreUnavailable,
} from "../../errors.ts";
import { publish } from "../../events.ts";
import { queueItemId } from "../../key.ts";
import { assertKnownOptions, shown } from "../../options.ts";
import type { QueueItem, SqlExecutor, Store } from "../../store.ts";
import type { Attempt } from "../attempt.ts";
import { Gathering } from "../gathering.ts";
import { type Persistence, persist } from "../persist.ts";
import type { Contents } from "../queue/contents.ts";
import type { Nudges } from "../queue/nudges.ts";
import { Underway } from "../underway.ts";
import { uuidDigits, uuidOf } from "../uuid.ts";

export interface EffectOptions {
  /** Tells it from others of its name in this operation, which need one. At most 255 characters. */
  key?: string;
  /** Not to be delivered before. It holds up those after it. @default 0 */
  dueIn?: Duration;
}

/**
 * Records an effect.
 *
 * @param name which of the relay's handlers delivers it
 * @param payload what that is given; as the codec can store it
 * @returns its id, a UUID that every delivery carries
 */
export type RecordEffect = (
  name: string,
  payload?: unknown,
  options?: EffectOptions,
) => Promise<string>;

/** What effects need of the engine. */
export interface EffectsHost extends Persistence {
  readonly store: Store;
  readonly codec: { encode(value: unknown): Uint8Array };
  readonly maxResultBytes: number;
  readonly contents: Contents;
  readonly nudges: Nudges;
}

const NAME_LENGTH_MAX = 255;
/** What one write of a queue may carry. */
const ITEMS_MAX = 1_000;
/** Places are less than 2^31; each attempt has so many, after those of all attempts before it. */
const PLACES_MAX = 2 ** 20;
const ATTEMPTS_MAX = 2 ** 11;

/** An effect as this execution records it. */
interface Call {
  readonly label: string;
  /** How many others were recorded before it. */
  readonly place: number;
  readonly dueInMs: number;
}

/** The effects of one execution. */
export class Effects {
  readonly #host: EffectsHost;
  readonly #attempt: Attempt;
  /** Places by labels. */
  readonly #places = new Map<string, number>();
  /** Labels that may not be used again. */
  readonly #taken = new Set<string>();
  readonly #ofHandler = new Underway();
  /** Those that are recorded while the operation's steps are undone, when its handler is over. */
  readonly #ofUndoing = new Underway();
  /** By when they are due. */
  readonly #adding = new Map<number, Gathering<QueueItem>>();

  constructor(host: EffectsHost, attempt: Attempt) {
    this.#host = host;
    this.#attempt = attempt;
  }

  /** Effects that are kept at once, as far as the attempt's lease is. */
  readonly record: RecordEffect = (name, payload, options) =>
    this.#track(this.#underway, name, options, async (call) => {
      const id = this.#idOf(call, String(await this.#attempt.createdAt()));
      const { failure, isUndoing } = this.#attempt;
      if (failure && !isUndoing) throw new OperationFailed(failure);
      await this.#add(this.#item(id, name, call, payload), call.dueInMs);
      this.#host.nudges.ring("effect", call.dueInMs);
      return id;
    });

  /**
   * Effects that are kept with what else is written in a transaction.
   *
   * @param epoch tells them from those of earlier operations that had this one's scope and key
   */
  within(executor: SqlExecutor, epoch: () => Promise<string>): TransactionEffects {
    const labels: string[] = [];
    const underway = new Underway();
    const record: RecordEffect = (name, payload, options) =>
      this.#track(underway, name, options, async (call) => {
        labels.push(call.label);
        const id = this.#idOf(call, await epoch());
        await this.#enqueue(executor, this.#item(id, name, call, payload), call.dueInMs);
        return id;
      });
    return {
      record,
      conclude: () => concluded(underway),
      committed: () => {
        if (labels.length > 0) this.#host.nudges.ring("effect");
      },
      rolledBack: () => {
        for (const label of labels) this.#taken.delete(label);
      },
    };
  }

  /** Waits for those that nobody waited for; none may be recorded from here on. */
  async finish(): Promise<void> {
    await this.#ofHandler.finish();
    await this.#ofUndoing.finish();
  }

  /** The handler, or the undoing, is over. @throws what one failed with that nobody had waited for */
  conclude(): Promise<void> {
    return concluded(this.#underway);
  }

  get #underway(): Underway {
    return this.#attempt.isUndoing ? this.#ofUndoing : this.#ofHandler;
  }

  #track(
    underway: Underway,
    name: string,
    options: EffectOptions | undefined,
    record: (call: Call) => Promise<string>,
  ): Promise<string> {
    const work = async () => {
      if (underway.isOver) {
        throw new EffectInvalid(
          `Effect "${name}" was recorded after the end of the operation, or of its transaction`,
        );
      }
      const call = this.#enter(name, options);
      try {
        const id = await record(call);
        const operation = this.#attempt.token.id;
        publish(() => ({ type: "effect", id: operation, item: id, name, outcome: "recorded" }));
        return uuidOf(id);
      } catch (error) {
        this.#taken.delete(call.label);
        throw error;
      }
    };
    const recorded = work();
    underway.track(recorded);
    return recorded;
  }

  #enter(name: string, options: EffectOptions = {}): Call {
    assertEffectName(name);
    assertKnownOptions(options, ["key", "dueIn"], `effect "${name}"`);
    const { key = "", dueIn = 0 } = options;
    if (typeof key !== "string" || key.length > NAME_LENGTH_MAX) {
      throw new EffectInvalid(
        `The key of effect "${name}" must be a string of at most ${NAME_LENGTH_MAX} characters, got ${shown(key)}`,
      );
    }
    const dueInMs = durationMs(dueIn, "dueIn");
    // Framed, so that no name can be made to look like another one with a key.
    const label = `${name.length}:${name}${key}`;
    if (this.#taken.has(label)) {
      throw new EffectInvalid(
        `Effect "${name}"${key && ` with the key "${key}"`} was recorded twice in one execution: give each a \`key\` of its own, such as its index in a loop`,
      );
    }
    const place = this.#places.get(label) ?? this.#places.size;
    this.#places.set(label, place);
    this.#taken.add(label);
    return { label, place, dueInMs };
  }

  #idOf({ label }: Call, epoch: string): string {
    return uuidDigits(queueItemId(this.#attempt.token.id, "effect", `${epoch}:${label}`));
  }

  #item(id: string, name: string, { place }: Call, payload: unknown): QueueItem {
    const { token, key, scope, recordScope } = this.#attempt;
    this.#host.contents.assertUsable("An effect");
    const value = this.#encoded(name, payload);
    return this.#host.contents.seal({
      ...{ id, kind: "effect", name, value, operation: token.id },
      place: placeOf(token.attempt, place),
      scope: recordScope,
      key,
      shown: { scope, key },
    });
  }

  #encoded(name: string, payload: unknown): Uint8Array {
    try {
      const bytes = this.#host.codec.encode(payload);
      const most = this.#host.maxResultBytes;
      if (bytes.byteLength > most) throw new Error(`it takes ${bytes.byteLength} bytes of ${most}`);
      return bytes;
    } catch (cause) {
      const why = cause instanceof Error ? cause.message : String(cause);
      throw new NotSerializable(`The payload of effect "${name}" cannot be stored: ${why}`, {
        cause,
      });
    }
  }

  #add(item: QueueItem, dueInMs: number): Promise<void> {
    const { queue } = this.#host.store;
    if (queue === undefined) throw withoutQueue(this.#host.store);
    let adding = this.#adding.get(dueInMs);
    if (adding === undefined) {
      const attempt = this.#attempt.token;
      adding = new Gathering(async (items) => {
        const written = await persist(this.#host, () => queue.add(items, { dueInMs, attempt }));
        if (written.kind === "unrecorded") {
          throw new StoreUnavailable("An effect could not be recorded", { cause: written.error });
        }
        if (written.answer.kind === "settled") return;
        this.#attempt.superseded();
        throw new AttemptSuperseded();
      }, ITEMS_MAX);
      this.#adding.set(dueInMs, adding);
    }
    return adding.add(item);
  }

  async #enqueue(executor: SqlExecutor, item: QueueItem, dueInMs: number): Promise<void> {
    const { store } = this.#host;
    if (!store.transactions?.enqueue) throw withoutQueue(store);
    await store.transactions.enqueue(executor, [item], { dueInMs });
  }
}

/**
 * An effect that this attempt is the first to record comes after all that earlier ones have recorded, of
 * which it knows nothing. Beyond the bounds, effects share a place and are not in order.
 */
function placeOf(attempt: number, place: number): number {
  const before = Math.min(attempt, ATTEMPTS_MAX) - 1;
  return before * PLACES_MAX + Math.min(place, PLACES_MAX - 1);
}

async function concluded(underway: Underway): Promise<void> {
  for (const error of await underway.conclude()) throw error;
}

/** Effects within one transaction. */
export interface TransactionEffects {
  readonly record: RecordEffect;
  /** Waits for those that nobody waited for. @throws what one of them failed with */
  conclude(): Promise<void>;
  /** The transaction has committed. */
  committed(): void;
  /** Nothing of it was kept: they may be recorded again. */
  rolledBack(): void;
}

export function assertEffectName(name: unknown): asserts name is string {
  const isName =
    typeof name === "string" && name !== "" && name.length <= NAME_LENGTH_MAX && isKept(name);
  if (isName) return;
  throw new EffectInvalid(
    `An effect's name must be a string of 1 to ${NAME_LENGTH_MAX} characters, got ${shown(name)}`,
  );
}

/** What databases cannot keep is refused here, where it can be said. */
function isKept(text: string): boolean {
  return text.isWellFormed() && !text.includes("\0");
}

export function withoutQueue(store: Store): InvalidOption {
  return new InvalidOption(
    `The ${store.name} store keeps no durable operations and effects; use a memory, SQLite, Postgres, MySQL or Redis store`,
  );
}
