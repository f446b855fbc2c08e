// Text with `{places}` for what a request says: the target and the headers of a probe.

import type { IncomingMessage } from "node:http";
import { fieldLines } from "./headers.ts";
import type { PathParts } from "./path.ts";

/** What fills the places. */
export interface TemplateFacts {
  key: string;
  scope: string;
  request: IncomingMessage;
  parts: PathParts;
}

export type Template = readonly (string | Place)[];

interface Place {
  kind: "key" | "scope" | "path" | "query" | "header";
  name: string;
}

const PLACE = /\{(?:(key|scope)|(path|query|header)\.([^{}\s]+))\}/g;

/**
 * Reads a template.
 *
 * @param names the `:parts` that the route's paths have
 * @returns what is wrong with it, as a string
 */
export function parseTemplate(written: string, names: ReadonlySet<string>): Template | string {
  const template: (string | Place)[] = [];
  let at = 0;
  for (const match of written.matchAll(PLACE)) {
    template.push(written.slice(at, match.index));
    at = match.index + match[0].length;
    const kind = (match[1] ?? match[2]) as Place["kind"];
    const name = kind === "header" ? match[3]!.toLowerCase() : (match[3] ?? "");
    if (kind === "path" && !names.has(name)) return `Not every path of this route has a :${name}.`;
    template.push({ kind, name });
  }
  template.push(written.slice(at));
  const text = template.filter((part) => typeof part === "string").join("");
  if (!/[{}]/.test(text)) return template;
  return "Its places are {key}, {scope}, {path.NAME}, {query.NAME} and {header.NAME}.";
}

/**
 * Fills the places of a template.
 *
 * @param escaped how what is filled in is written
 * @returns `undefined` when the request does not say it all
 */
export function filled(
  template: Template,
  facts: TemplateFacts,
  escaped: (value: string) => string | undefined,
): string | undefined {
  let text = "";
  for (const part of template) {
    if (typeof part === "string") text += part;
    else {
      const said = saidBy(part, facts);
      const value = said === undefined ? undefined : escaped(said);
      if (value === undefined) return undefined;
      text += value;
    }
  }
  return text;
}

function saidBy({ kind, name }: Place, facts: TemplateFacts): string | undefined {
  switch (kind) {
    case "key":
    case "scope":
      return facts[kind];
    case "path":
      return facts.parts[name];
    case "query":
      return (
        new URL(facts.request.url ?? "/", "http://upstream").searchParams.get(name) ?? undefined
      );
    case "header": {
      const lines = fieldLines(facts.request.rawHeaders, name);
      return lines.length === 1 ? lines[0] : undefined;
    }
  }
}

/** For a target: nothing in it can end its place. */
export function inTarget(value: string): string | undefined {
  // Dots alone would be taken for a way up, however they are escaped.
  return /^\.{1,2}$/.test(value) || !value.isWellFormed() ? undefined : encodeURIComponent(value);
}

/** For a header. */
export function inHeader(value: string): string | undefined {
  return /^[\t\x20-\x7e\x80-\xff]*$/.test(value) ? value : undefined;
}
