// The text of a configuration: YAML, with variables of the environment filled in, in which every value
// knows its line.

import { readFileSync, statSync } from "node:fs";
import {
  type Document,
  isCollection,
  isMap,
  isNode,
  isScalar,
  LineCounter,
  type Pair,
  parseDocument,
  type Scalar,
  visit,
} from "yaml";
import { EXIT, Failure } from "../../failure.ts";

/** The way to a value: names and places in lists. */
export type ValuePath = readonly (string | number)[];

/** Something that is wrong, and where. */
export interface Mistake {
  path: ValuePath;
  message: string;
  /** Where the name stands, not its value. */
  isOfName?: boolean;
}

const BYTES_MAX = 2 ** 20;
const MISTAKES_SHOWN = 20;

export class ConfigDocument {
  /** As it was named. */
  readonly file: string;
  /** What it says, as plain values. */
  readonly content: unknown;
  readonly #document: Document;
  readonly #lines: LineCounter;

  /** @throws {Failure} when it cannot be read, or is no YAML; it says where */
  constructor(file: string, text: string, environment: NodeJS.ProcessEnv) {
    this.file = file;
    this.#lines = new LineCounter();
    this.#document = parseDocument(text, {
      lineCounter: this.#lines,
      prettyErrors: false,
      stringKeys: true,
    });
    const { errors } = this.#document;
    if (errors.length > 0) {
      throw failure(errors.map(({ pos, message }) => `${this.#place(pos[0])}: ${message}`));
    }
    const unset = this.#fillIn(environment);
    if (unset.length > 0) throw failure(unset);
    try {
      this.content = this.#document.toJS({ maxAliasCount: 100 });
    } catch (cause) {
      throw failure([`${file}: ${(cause as Error).message}`]);
    }
  }

  /** Where a value is: file, line and column. */
  place(path: ValuePath, isOfName = false): string {
    // What is not there belongs where it should be.
    for (let length = path.length; length > 0; length--) {
      const offset = this.#offset(path.slice(0, length), isOfName && length === path.length);
      if (offset !== undefined) return this.#place(offset);
    }
    return this.#place(this.#document.contents?.range?.[0] ?? 0);
  }

  has(path: ValuePath): boolean {
    return this.#document.hasIn(path);
  }

  /** A value as it was written, unless it may be a secret. */
  written(path: ValuePath): string {
    const node = this.#document.getIn(path, true);
    if (!isScalar(node)) return isCollection(node) ? "something of several parts" : "nothing";
    const text = node.source ?? String(node.value);
    return isSecret(path) || text.includes("@") ? "this" : JSON.stringify(text);
  }

  /** All that is wrong, as one failure. */
  failure(mistakes: readonly Mistake[]): Failure {
    return failure(
      mistakes.map(({ path, message, isOfName }) => `${this.place(path, isOfName)}: ${message}`),
    );
  }

  #place(offset: number): string {
    const { line, col } = this.#lines.linePos(offset);
    return `${this.file}:${line}:${col}`;
  }

  #offset(path: ValuePath, isOfName: boolean): number | undefined {
    if (isOfName) {
      const parent =
        path.length === 1 ? this.#document.contents : this.#document.getIn(path.slice(0, -1), true);
      const pairs = isMap(parent) ? (parent.items as Pair<Scalar>[]) : [];
      return pairs.find(({ key }) => key.value === path.at(-1))?.key.range?.[0];
    }
    const node = this.#document.getIn(path, true);
    return isNode(node) ? node.range?.[0] : undefined;
  }

  /** Replaces `${NAME}`. @returns what is wrong */
  #fillIn(environment: NodeJS.ProcessEnv): string[] {
    const unset: string[] = [];
    visit(this.#document, {
      Scalar: (role, node) => {
        const { value } = node;
        if (role === "key" || typeof value !== "string" || !value.includes("${")) return;
        node.source ??= value;
        node.value = value.replace(/\$\{([^}]*)\}/g, (_, name: string) => {
          const found = /^[A-Za-z_]\w*$/.test(name) ? environment[name] : undefined;
          if (found === undefined) {
            const place = this.#place(node.range?.[0] ?? 0);
            unset.push(`${place}: the environment has no variable ${JSON.stringify(name)}`);
          }
          return found ?? "";
        });
      },
    });
    return unset;
  }
}

/** @throws {Failure} */
export function readDocument(file: string): ConfigDocument {
  let text: string;
  try {
    if (statSync(file).size > BYTES_MAX) throw new Error("it is larger than 1 MiB");
    text = readFileSync(file, "utf8");
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    const why = code === "ENOENT" ? "there is no such file" : message;
    throw new Failure(`--config ${file}: ${why}`, { exit: EXIT.usage, cause });
  }
  return new ConfigDocument(file, text, process.env);
}

/** What could hold a password or a token is not repeated. */
function isSecret(path: ValuePath): boolean {
  return ["store", "headers", "token"].some((name) => path.includes(name));
}

function failure(lines: readonly string[]): Failure {
  const shown = lines.slice(0, MISTAKES_SHOWN);
  const more = lines.length > shown.length ? [`and ${lines.length - shown.length} more`] : [];
  return new Failure([...shown, ...more].join("\n"), { exit: EXIT.usage });
}
