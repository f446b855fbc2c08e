// Other spellings of the operation's payload, and other payloads that the API is likely to accept.

/** The body as JSON, when it is an object of it. */
export function jsonObject(body: Buffer | undefined): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(body?.toString() ?? "");
    return isObject(value) ? value : undefined;
  } catch {
    return undefined;
  }
}

/**
 * A body that says something else, and is as valid as can be guessed: the first number is one
 * higher, or the first text one character longer. Of what is no JSON, the last byte is another.
 *
 * @returns `undefined` when there is nothing to change
 */
export function otherPayload(body: Buffer): Buffer | undefined {
  if (body.byteLength === 0) return undefined;
  const object = jsonObject(body);
  if (object) {
    const changed = withFirstChanged(object);
    return Buffer.from(JSON.stringify(changed ?? { ...object, semelCheck: 2 }));
  }
  const other = Buffer.from(body);
  const last = other.byteLength - 1;
  other[last] = other[last] === 0x31 ? 0x32 : 0x31;
  return other;
}

function withFirstChanged(object: Record<string, unknown>): Record<string, unknown> | undefined {
  for (const wanted of ["number", "string"]) {
    for (const [name, value] of Object.entries(object)) {
      if (isObject(value)) {
        const inner = withFirstChanged(value);
        if (inner) return { ...object, [name]: inner };
      }
      if (typeof value !== wanted) continue;
      return { ...object, [name]: typeof value === "number" ? value + 1 : `${value}2` };
    }
  }
  return undefined;
}

/**
 * The JSON body with one more member, whose value is given as JSON text.
 *
 * @param body a JSON object
 */
export function withMember(body: Buffer, value: string): Buffer {
  const text = JSON.stringify(jsonObject(body));
  const separator = text === "{}" ? "" : ",";
  return Buffer.from(`${text.slice(0, -1)}${separator}"semelCheck":${value}}`);
}

/** The same JSON object with its members the other way round. */
export function reordered(body: Buffer): Buffer {
  return Buffer.from(
    JSON.stringify(Object.fromEntries(Object.entries(jsonObject(body)!).reverse())),
  );
}

/** The same JSON object with other whitespace. */
export function respaced(body: Buffer): Buffer {
  return Buffer.from(`${JSON.stringify(jsonObject(body), undefined, 3)}\n`);
}

/** Two bodies with the same text here are the same to whoever reads JSON. */
export function canonicalText(body: Buffer): string {
  try {
    return JSON.stringify(JSON.parse(body.toString()), (_, value) =>
      isObject(value)
        ? Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)))
        : value,
    );
  } catch {
    return body.toString("latin1");
  }
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
