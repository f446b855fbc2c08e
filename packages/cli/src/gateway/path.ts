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
 * Reads a pattern.
 *
 * @returns what is wrong with it, as a string
 */
export function parsePath(written: string): PathPattern | string {
  if (!PATTERN.test(written)) return "Write a path such as /payments, /orders/:id or /files/*.";
  const isPrefix = written.endsWith("*");
  const path = asBytes(isPrefix ? written.slice(0, -1) : written);
  const names: string[] = [];
  const segments = (isPrefix ? path : normalized(path)).split("/").map((segment) => {
    const name = PART.exec(segment)?.[1];
    if (name === undefined) return segment.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&");
    names.push(name);
    return "([^/]+)";
  });
  const twice = names.find((name, at) => names.indexOf(name) !== at);
  if (twice !== undefined) return `It has two parts named :${twice}.`;
  // Without regard to case, as many routers are: what they would refuse may follow a rule too many.
  const expression = new RegExp(`^${segments.join("/")}${isPrefix ? ".*" : ""}$`, "is");
  return { written, names, expression };
}

/** The path of a request's target, as patterns are compared with it. */
export function comparablePath(target: string): string {
  const end = target.indexOf("?");
  const path = end < 0 ? target : target.slice(0, end);
  return ODD.test(path) ? normalized(decoded(path)) : path;
}

/** The parts of a comparable path, if it fits. */
export function matchPath(pattern: PathPattern, path: string): PathParts | undefined {
  const match = pattern.expression.exec(path);
  if (!match) return undefined;
  const parts: Record<string, string> = Object.create(null);
  for (const [at, name] of pattern.names.entries()) parts[name] = asText(match[at + 1]!);
  return parts;
}

/** What could be spelt in another way: escapes, parameters, doubled slashes, dots, a slash at the end. */
const ODD = /[%;]|\/\/|\/\.|.\/$/;

/** Byte by byte, because what is no UTF-8 must not hide what is. */
function decoded(path: string): string {
  return path.replace(/%([0-9a-f]{2})/gi, (_, hex: string) =>
    String.fromCharCode(Number.parseInt(hex, 16)),
  );
}

/** Without parameters, empty and dot segments (RFC 3986 §3.3, §5.2.4), and a slash at the end. */
function normalized(path: string): string {
  const segments: string[] = [];
  for (const part of path.split("/")) {
    const segment = part.replace(/;.*/s, "");
    if (segment === "..") segments.pop();
    else if (segment !== "" && segment !== ".") segments.push(segment);
  }
  return `/${segments.join("/")}`;
}

/** UTF-8 with a character for each byte, as targets are. */
function asBytes(text: string): string {
  return Buffer.from(text, "utf8").toString("latin1");
}

function asText(bytes: string): string {
  return Buffer.from(bytes, "latin1").toString("utf8");
}
