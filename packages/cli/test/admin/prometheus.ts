// Reads what Prometheus would scrape: the text exposition format, version 0.0.4, and no more lenient than
// Prometheus is.

export interface Family {
  name: string;
  type: string;
  help: string;
  samples: { name: string; labels: Record<string, string>; value: number }[];
}

const NAME = /^[a-zA-Z_:][a-zA-Z0-9_:]*$/;
/** As Go's ParseFloat, to which Prometheus leaves numbers, `Nan` is one: a histogram's that is empty yet. */
const SAMPLE = /^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? ([Nn]a[Nn]|[+-]Inf|-?[\d.eE+-]+)$/;
const LABEL = /([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(?:,|$)/y;

/** @throws {Error} for what Prometheus would not take */
export function parseMetrics(text: string): Map<string, Family> {
  if (!text.endsWith("\n")) throw new Error("the last line has no end");
  const families = new Map<string, Family>();
  for (const line of text.split("\n")) {
    if (line === "") continue;
    const [, keyword, name, rest] = /^# (HELP|TYPE) (\S+) ?(.*)$/.exec(line) ?? [];
    if (name !== undefined) {
      if (!NAME.test(name)) throw new Error(`bad name: ${line}`);
      const family = families.get(name) ?? { name, type: "", help: "", samples: [] };
      if (keyword === "TYPE" && family.type) throw new Error(`declared twice: ${name}`);
      family[keyword === "TYPE" ? "type" : "help"] = rest!;
      families.set(name, family);
    } else if (!line.startsWith("#")) addSample(families, line);
  }
  return families;
}

function addSample(families: Map<string, Family>, line: string): void {
  const match = SAMPLE.exec(line);
  if (!match) throw new Error(`bad sample: ${line}`);
  const [, name, labels = "", value] = match;
  const family = families.get(name!) ?? families.get(name!.replace(/_(?:bucket|sum|count)$/, ""));
  if (!family?.type) throw new Error(`no type for: ${line}`);
  family.samples.push({ name: name!, labels: labelsOf(labels, line), value: numberOf(value!) });
}

function labelsOf(text: string, line: string): Record<string, string> {
  const labels: Record<string, string> = {};
  LABEL.lastIndex = 0;
  while (LABEL.lastIndex < text.length) {
    const match = LABEL.exec(text);
    if (!match) throw new Error(`bad labels: ${line}`);
    labels[match[1]!] = match[2]!;
  }
  return labels;
}

function numberOf(text: string): number {
  if (text.endsWith("Inf")) return text.startsWith("-") ? -Infinity : Infinity;
  const number = Number(text);
  if (text.toLowerCase() !== "nan" && Number.isNaN(number)) throw new Error(`bad number: ${text}`);
  return number;
}

/** The value of one sample. */
export function sampleOf(
  families: Map<string, Family>,
  name: string,
  labels: Record<string, string> = {},
): number | undefined {
  const family = families.get(name) ?? families.get(name.replace(/_(?:bucket|sum|count)$/, ""));
  return family?.samples.find(
    (sample) =>
      sample.name === name &&
      Object.entries(labels).every(([label, value]) => sample.labels[label] === value),
  )?.value;
}
