// Holds a configuration against its published schema, and says what is wrong in words: where, what was
// expected, and which name was probably meant.

import { readFileSync } from "node:fs";
import { Ajv, type ErrorObject, type ValidateFunction } from "ajv";
import { nearestName } from "../../nearest-name.ts";
import type { ConfigDocument, Mistake, ValuePath } from "./document.ts";

interface Schema {
  title?: string;
  properties?: Record<string, unknown>;
}

type SchemaError = ErrorObject & { parentSchema: Schema };

let compiled: { validate: ValidateFunction; schema: Schema & Definitions } | undefined;

interface Definitions {
  definitions: { route: Required<Schema> };
  properties: Record<string, unknown> & { defaults: Required<Schema> };
}

function schema() {
  if (compiled === undefined) {
    const file = new URL("../../../schema/semel.schema.json", import.meta.url);
    const schema = JSON.parse(readFileSync(file, "utf8"));
    const ajv = new Ajv({ allErrors: true, verbose: true, allowUnionTypes: true });
    compiled = { validate: ajv.compile(schema), schema };
  }
  return compiled;
}

/**
 * Checks what a configuration says against the schema.
 *
 * @throws {Failure} with all that is wrong
 */
export function assertValid(document: ConfigDocument): void {
  const { validate } = schema();
  if (document.content === null) {
    throw document.failure([{ path: [], message: "it is empty; it takes at least `upstream`" }]);
  }
  if (validate(document.content)) return;
  // One is enough for a place: what is no text has no pattern either.
  const byPlace = new Map<string, SchemaError>();
  for (const error of validate.errors as SchemaError[]) {
    const extra =
      error.keyword === "additionalProperties" ? error.params["additionalProperty"] : "";
    const place = `${error.instancePath} ${extra}`;
    if (!byPlace.has(place)) byPlace.set(place, error);
  }
  throw document.failure([...byPlace.values()].map((error) => mistake(error, document)));
}

function mistake(error: SchemaError, document: ConfigDocument): Mistake {
  const path = pathOf(error.instancePath, document.content);
  switch (error.keyword) {
    case "additionalProperties":
      return unknownName(path, error.params["additionalProperty"], error.parentSchema);
    case "propertyNames":
      return {
        path: [...path, error.params["propertyName"]],
        isOfName: true,
        message: `${shown(error.params["propertyName"])} is no name of a header`,
      };
    case "required": {
      const missing = error.params["missingProperty"];
      return { path, message: `${named(path)} lacks ${shown(missing)}` };
    }
    default: {
      const expected = error.parentSchema.title ?? error.message;
      return { path, message: `${named(path)} must be ${expected}, not ${document.written(path)}` };
    }
  }
}

function unknownName(path: ValuePath, name: string, { properties = {} }: Schema): Mistake {
  const known = Object.keys(properties);
  const nearest = nearestName(name, known);
  const where = path.length === 0 ? "" : ` in ${named(path)}`;
  const instead = nearest ? `did you mean ${shown(nearest)}?` : elsewhere(name, path, known);
  return {
    path: [...path, name],
    isOfName: true,
    message: `unknown option ${shown(name)}${where}; ${instead}`,
  };
}

/** Where an option belongs that stands in the wrong place, or which there are in this one. */
function elsewhere(name: string, path: ValuePath, known: readonly string[]): string {
  const { definitions, properties } = schema().schema;
  const places: readonly (readonly [where: string, names: string[]])[] = [
    ["at the top", path.length === 0 ? [] : Object.keys(properties)],
    ["in `defaults`, or in one of `routes`", Object.keys(properties.defaults.properties)],
    ["in one of `routes`", Object.keys(definitions.route.properties)],
  ];
  for (const [where, names] of places) {
    if (names.includes(name)) return `it belongs ${where}`;
    const nearest = nearestName(name, names);
    if (nearest) return `did you mean ${shown(nearest)}, which belongs ${where}?`;
  }
  return `there are ${known.join(", ")}`;
}

/** The segments of a JSON Pointer, with places in lists as numbers. */
function pathOf(pointer: string, content: unknown): ValuePath {
  const path: (string | number)[] = [];
  let value = content;
  for (const part of pointer.split("/").slice(1)) {
    const name = part.replaceAll("~1", "/").replaceAll("~0", "~");
    path.push(Array.isArray(value) ? Number(name) : name);
    value = (value as Record<string, unknown>)[name];
  }
  return path;
}

/** `routes[1].lease`, as people count and write. */
export function named(path: ValuePath): string {
  if (path.length === 0) return "the configuration";
  const text = path.map((part) => (typeof part === "number" ? `[${part}]` : `.${part}`)).join("");
  return shown(text.replace(/^\./, ""));
}

function shown(name: string): string {
  return `\`${name}\``;
}
