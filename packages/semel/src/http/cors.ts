// Lets scripts of other origins read what Semel adds to a response, where the application lets them
// read the response at all (HTTP-18; Fetch §3.3.5).

const OWN = ["Idempotency-Status", "Idempotency-Expires", "Idempotent-Replayed", "Retry-After"];

/**
 * `Access-Control-Expose-Headers` with Semel's own among them.
 *
 * @param field the value of a response header, by its lower-case name
 * @returns `undefined` when the header is to stay as it is
 */
export function exposedHeaders(field: (name: string) => unknown): string | undefined {
  if (!field("access-control-allow-origin")) return undefined;
  const given = [field("access-control-expose-headers") ?? []].flat().join(", ");
  const names = new Set(given.toLowerCase().split(/[\s,]+/));
  const missing = OWN.filter((name) => !names.has(name.toLowerCase()));
  if (missing.length === 0) return undefined;
  return [given, ...missing].filter((part) => part !== "").join(", ");
}
