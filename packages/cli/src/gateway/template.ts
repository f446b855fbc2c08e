// Text with `{places}` for what a request says: the target and the headers of a probe.

import type { IncomingMessage } from "node:http";
import { fieldLines } from "./headers.ts";
import type { PathParts } from "./path.ts";

/** What fills the places. */
export interface TemplateFacts {
  /** In one of its spellings. */
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
    const place = placeOf(match);
    if (place.kind === "path" && !names.has(place.name)) {
      return `Not every path of this route has a :${place.name}.`;
    }
    template.push(place);
  }
  template.push(written.slice(at));
  const text = template.filter((part) => typeof part === "string").join("");
  if (!/[{}]/.test(text)) return template;
  return "Its places are {key}, {scope}, {path.NAME}, {query.NAME} and {header.NAME}.";
}

function placeOf([, whole, part, name = ""]: RegExpMatchArray): Place {
  const kind = (whole ?? part) as Place["kind"];
  if (kind !== "header") return { kind, name };
  const header = name.toLowerCase();
  // However this request spells the key, the first one may have spelt it otherwise.
  return header === "idempotency-key" ? { kind: "key", name: "" } : { kind, name: header };
}

/** Whether a template has a place for the key. */
export function namesKey(template: Template): boolean {
  return template.some((part) => typeof part !== "string" && part.kind === "key");
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
