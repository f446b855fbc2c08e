// Which requests a route is for: paths with `:names` and a `*` at the end, compared as servers commonly
// read them, so that another spelling of a path is no way around its route.

/** A pattern that was read. */
export interface PathPattern {
  /** As it was written. */
  readonly written: string;
  /** The names of its `:parts`, in order. */
  readonly names: readonly string[];
  readonly expression: RegExp;
}

/** What the `:parts` of a path stand for. */
export type PathParts = Readonly<Record<string, string>>;

const PATTERN = /^\/[^*?#;\s]*\*?$/;
const PART = /^:([a-z_]\w*)$/i;

/**
 * Reads a pattern. It is decoded and normalized as requests are, or it could be one that none ever fits.
 *
 * @returns what is wrong with it, as a string
 */
export function parsePath(written: string): PathPattern | string {
  if (!PATTERN.test(written)) return "Write a path such as /payments, /orders/:id or /files/*.";
  const isPrefix = written.endsWith("*");
  const segments: Segment[] = [];
  for (const text of asBytes(isPrefix ? written.slice(0, -1) : written).split("/")) {
    const name = PART.exec(text)?.[1];
    if (name === undefined && text.includes(":")) {
      return "A :part is all that is between two slashes; write a colon that is meant as %3A.";
    }
    if (name === undefined) segments.push(...decoded(text).split("/"));
    else segments.push({ name });
  }
  // What a `*` follows is the beginning of a segment, and a dot there is no segment of its own.
  const begun = isPrefix ? segments.splice(-1) : [];
  const whole = [...normalized(segments), ...begun];
  const names = whole.flatMap((segment) => (typeof segment === "string" ? [] : segment.name));
  const twice = names.find((name, at) => names.indexOf(name) !== at);
  if (twice !== undefined) return `It has two parts named :${twice}.`;
  const source = whole.map(sourceOf).join("/");
  // Without regard to case, as many routers are: what they would refuse may follow a rule too many.
  const expression = new RegExp(`^/${source}${isPrefix ? ".*" : "/?"}$`, "is");
  return { written, names, expression };
}

/** Text, or what a name stands for. */
type Segment = string | { readonly name: string };

function sourceOf(segment: Segment): string {
  if (typeof segment !== "string") return "([^/]+)";
  return segment.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&");
}

/** The path of a request's target, as patterns are compared with it: a slash at the end stays. */
export function comparablePath(target: string): string {
  const end = target.indexOf("?");
  const path = end < 0 ? target : target.slice(0, end);
  if (!ODD.test(path)) return path;
  const segments = decoded(path).split("/");
  const whole = normalized(segments).join("/");
  const isOpen = /^\.{0,2}(?:;.*)?$/s.test(segments.at(-1)!);
  return whole !== "" && isOpen ? `/${whole}/` : `/${whole}`;
}

/** The parts of a comparable path, if it fits. */
export function matchPath(pattern: PathPattern, path: string): PathParts | undefined {
  const match = pattern.expression.exec(path);
  if (!match) return undefined;
  const parts: Record<string, string> = Object.create(null);
  for (const [at, name] of pattern.names.entries()) parts[name] = asText(match[at + 1]!);
  return parts;
}

/** What could be spelt in another way: escapes, parameters, doubled slashes, dots. */
const ODD = /[%;]|\/\/|\/\./;

/** Byte by byte, because what is no UTF-8 must not hide what is. */
function decoded(path: string): string {
  return path.replace(/%([0-9a-f]{2})/gi, (_, hex: string) =>
    String.fromCharCode(Number.parseInt(hex, 16)),
  );
}

/** Without parameters, empty and dot segments (RFC 3986 §3.3, §5.2.4). */
function normalized<Kind extends Segment>(segments: readonly Kind[]): (Kind | string)[] {
  const kept: (Kind | string)[] = [];
  for (const part of segments) {
    const segment = typeof part === "string" ? part.replace(/;.*/s, "") : part;
    if (segment === "..") kept.pop();
    else if (segment !== "" && segment !== ".") kept.push(segment);
  }
  return kept;
}

/** UTF-8 with a character for each byte, as targets are. */
function asBytes(text: string): string {
  return Buffer.from(text, "utf8").toString("latin1");
}

function asText(bytes: string): string {
  return Buffer.from(bytes, "latin1").toString("utf8");
}
