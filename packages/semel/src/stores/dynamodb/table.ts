// The table of the DynamoDB store: conditional writes and reads of items, and what its errors mean.

import { isSemelError, StoreFull, StoreUnavailable, StoreUnusable } from "../../errors.ts";
import type { AttemptToken, RecordId } from "../../store.ts";
import { type Changes, FORMAT, type Item } from "./item.ts";

/** What Semel needs of `DynamoDBDocument` of `@aws-sdk/lib-dynamodb`. */
export interface DynamoDocument {
  // biome-ignore-start lint/suspicious/noExplicitAny: the SDK's inputs are stricter than structural types can name
  get(input: any): Promise<{ Item?: Record<string, any> | undefined }>;
  put(input: any): Promise<unknown>;
  update(input: any): Promise<unknown>;
  delete(input: any): Promise<unknown>;
  scan(input: any): Promise<{
    Items?: Record<string, any>[] | undefined;
    LastEvaluatedKey?: Record<string, any> | undefined;
  }>;
  // biome-ignore-end lint/suspicious/noExplicitAny: as above
}

export class DynamoTable {
  readonly #document: DynamoDocument;
  readonly #table: string;

  constructor(document: DynamoDocument, table: string) {
    this.#document = document;
    this.#table = table;
  }

  async get(id: RecordId): Promise<Item | undefined> {
    const { Item: found } = await this.#asked(() =>
      this.#document.get({ ...this.#key(id), ConsistentRead: true }),
    );
    return found as Item | undefined;
  }

  /** Writes a new item where there is none, or only the expired one that was seen. */
  create(item: Item, expired: Item | undefined): Promise<boolean> {
    const condition = expired
      ? unchangedSince(expired)
      : { ConditionExpression: "attribute_not_exists(id)" };
    return this.#conditionally(() =>
      this.#document.put({ TableName: this.#table, Item: withoutAbsent(item), ...condition }),
    );
  }

  /** Changes an item, if it is still the one that was seen. */
  change(item: Item, changes: Changes): Promise<boolean> {
    const { ConditionExpression, ExpressionAttributeValues } = unchangedSince(item);
    const cleared = { reason: undefined, result: undefined, ...changes };
    return this.#update(item.id, cleared, ConditionExpression, ExpressionAttributeValues);
  }

  /**
   * Changes an item of an attempt that runs (SM-17).
   *
   * @param gone the time by which it counts as expired
   */
  changeOwned(
    { id, attempt, owner }: AttemptToken,
    changes: Changes,
    gone: number,
    appended?: Uint8Array,
  ): Promise<boolean> {
    const values = {
      ":running": "running",
      ":attempt": attempt,
      ":owner": owner,
      ":gone": gone,
      ":format": FORMAT,
    };
    return this.#update(id, changes, OWNED, values, appended);
  }

  /** Deletes an item, if it is still the one that was seen. */
  delete(item: Item): Promise<boolean> {
    return this.#conditionally(() =>
      this.#document.delete({ ...this.#key(item.id), ...unchangedSince(item) }),
    );
  }

  #update(
    id: RecordId,
    changes: Changes,
    condition: string,
    values: Record<string, unknown>,
    appended?: Uint8Array,
  ): Promise<boolean> {
    const sets: string[] = [];
    const removes: string[] = [];
    const all = { ...values };
    if (appended !== undefined) {
      sets.push("#journal = list_append(if_not_exists(#journal, :nothing), :appended)");
      all[":nothing"] = [];
      all[":appended"] = [Buffer.from(appended)];
    }
    for (const [name, value] of Object.entries(changes)) {
      if (value === undefined) removes.push(`#${name}`);
      else {
        sets.push(`#${name} = :new_${name}`);
        all[`:new_${name}`] = value;
      }
    }
    const set = sets.length > 0 ? `SET ${sets.join(", ")}` : "";
    const remove = removes.length > 0 ? `REMOVE ${removes.join(", ")}` : "";
    const update = `${set} ${remove}`.trim();
    return this.#conditionally(() =>
      this.#document.update({
        ...this.#key(id),
        UpdateExpression: update,
        ConditionExpression: condition,
        ExpressionAttributeNames: namesIn(update + condition),
        ExpressionAttributeValues: all,
      }),
    );
  }

  async scan(isWanted: (item: Item) => boolean): Promise<Item[]> {
    const items: Item[] = [];
    let from: Record<string, unknown> | undefined;
    do {
      const page = await this.#asked(() =>
        this.#document.scan({
          TableName: this.#table,
          ConsistentRead: true,
          ...(from && { ExclusiveStartKey: from }),
        }),
      );
      items.push(...((page.Items ?? []) as Item[]).filter(isWanted));
      from = page.LastEvaluatedKey;
    } while (from);
    return items;
  }

  #key(id: RecordId) {
    return { TableName: this.#table, Key: { id } };
  }

  /** @returns false when the condition did not hold */
  async #conditionally(write: () => Promise<unknown>): Promise<boolean> {
    try {
      await write();
      return true;
    } catch (error) {
      if (nameOf(error) === "ConditionalCheckFailedException") return false;
      throw this.#storeError(error);
    }
  }

  async #asked<Answer>(ask: () => Promise<Answer>): Promise<Answer> {
    try {
      return await ask();
    } catch (error) {
      throw this.#storeError(error);
    }
  }

  #storeError(cause: unknown): Error {
    if (isSemelError(cause)) return cause;
    const message = cause instanceof Error ? cause.message : String(cause);
    switch (nameOf(cause)) {
      case "ResourceNotFoundException":
        return new StoreUnusable(
          `There is no DynamoDB table "${this.#table}"; create it as dynamodbTable() describes`,
          { cause },
        );
      case "AccessDeniedException":
      case "UnrecognizedClientException":
        return new StoreUnusable(
          `DynamoDB refuses this client: ${message}. It needs GetItem, PutItem, UpdateItem, DeleteItem and Scan on "${this.#table}"`,
          { cause },
        );
      case "ValidationException":
        if (/item size/i.test(message)) return tooLarge(cause);
        return new StoreUnusable(`DynamoDB refused a request: ${message}`, { cause });
      case "ItemCollectionSizeLimitExceededException":
        return new StoreFull("DynamoDB has no room for this record", { cause });
      default:
        return new StoreUnavailable(`DynamoDB failed: ${message}`, { cause });
    }
  }
}

/** SM-17, in the very condition of the write. */
const OWNED =
  "#state = :running AND #attempt = :attempt AND #owner = :owner AND #format = :format AND (attribute_not_exists(#expiresAt) OR #expiresAt > :gone)";

/** Every change of an item changes one of these, or its lease. */
function unchangedSince(item: Item) {
  const { leaseUntil } = item;
  const lease =
    leaseUntil === undefined ? "attribute_not_exists(#leaseUntil)" : "#leaseUntil = :lease";
  const condition = `#state = :state AND #attempt = :attempt AND #owner = :owner AND #updatedAt = :updated AND ${lease}`;
  return {
    ConditionExpression: condition,
    ExpressionAttributeNames: namesIn(condition),
    ExpressionAttributeValues: {
      ":state": item.state,
      ":attempt": item.attempt,
      ":owner": item.owner,
      ":updated": item.updatedAt,
      ...(leaseUntil !== undefined && { ":lease": leaseUntil }),
    },
  };
}

/** Every name goes by a placeholder, because many are words of DynamoDB's own. */
function namesIn(expression: string): Record<string, string> {
  const names = [...expression.matchAll(/#(\w+)/g)];
  return Object.fromEntries(names.map(([placeholder, name]) => [placeholder, name!]));
}

function withoutAbsent(item: Item): Item {
  return Object.fromEntries(
    Object.entries(item).filter(([, value]) => value !== undefined),
  ) as unknown as Item;
}

function tooLarge(cause: unknown): StoreFull {
  return new StoreFull(
    "DynamoDB keeps items of 400 KB, and the record with what its steps returned is larger; let steps return less",
    { cause },
  );
}

function nameOf(error: unknown): unknown {
  return error instanceof Error ? error.name : undefined;
}
