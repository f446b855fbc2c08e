// Reads how many effects there were, from an address that the user names.

import { type Answer, exchange } from "./exchange.ts";
import type { Target } from "./target.ts";

/** The counter cannot be read: nothing that is counted by it can be judged. */
export class CountUnreadable extends Error {
  override name = "CountUnreadable";
}

/** @throws {CountUnreadable} */
export async function readCount(target: Target): Promise<number> {
  const { url, pointer } = target.count!;
  const { headers, timeoutMs } = target;
  const answer = await exchange({ method: "GET", url, headers, body: undefined, timeoutMs });
  if (answer.status !== 200) {
    throw new CountUnreadable(
      `--count ${url.href} answers ${answer.trouble ?? answer.status}; it must answer 200 with a number`,
    );
  }
  return numberIn(answer, url, pointer);
}

function numberIn(answer: Answer, url: URL, pointer: string): number {
  let value: unknown;
  try {
    value = at(JSON.parse(answer.body.toString()), pointer);
  } catch {
    value = undefined;
  }
  if (typeof value === "string" && /^\d+$/.test(value)) value = Number(value);
  // A list counts by its length: most APIs have a list of what was made, and few a number.
  if (Array.isArray(value)) value = value.length;
  if (typeof value === "number" && Number.isSafeInteger(value)) return value;
  const where = pointer === "" ? "no number, nor a list" : `no number, nor a list, at ${pointer}`;
  throw new CountUnreadable(
    `--count ${url.href} has ${where}; --count-pointer says where it is, such as /total`,
  );
}

/** RFC 6901. */
function at(value: unknown, pointer: string): unknown {
  const names = pointer.split("/").slice(1);
  return names.reduce<unknown>((inner, name) => {
    const plain = name.replaceAll("~1", "/").replaceAll("~0", "~");
    return typeof inner === "object" && inner !== null && Object.hasOwn(inner, plain)
      ? (inner as Record<string, unknown>)[plain]
      : undefined;
  }, value);
}
