// Writes the last results into README.md, so that what it says is what was measured.

import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const START = "<!-- results -->";
const END = "<!-- /results -->";
const folder = join(import.meta.dirname, "results");
const path = join(import.meta.dirname, "README.md");

const sections = readdirSync(folder)
  .filter((file) => file.endsWith(".json"))
  .sort()
  .map((file) => sectionOf(JSON.parse(readFileSync(join(folder, file), "utf8"))));
const readme = readFileSync(path, "utf8");
const [before, after] = [readme.indexOf(START) + START.length, readme.indexOf(END)];
if (before < START.length || after < before) throw new Error(`README.md lacks ${START} … ${END}`);
const text = `${readme.slice(0, before)}\n\n${sections.join("\n\n")}\n\n${readme.slice(after)}`;
writeFileSync(path, text);

function sectionOf({ name, question, at, machine, rows, targets, notes }) {
  const columns = [...new Set(Object.values(rows).flatMap((row) => Object.keys(row)))];
  const table = [
    line(["", ...columns]),
    line(["---", ...columns.map(() => "---:")]),
    ...Object.entries(rows).map(([key, row]) =>
      line([key, ...columns.map((one) => row[one] ?? "")]),
    ),
  ];
  const verdicts = targets.map(
    ({ what, target, measured, met }) =>
      `- ${what}: **${measured}** (target ${target}${met ? "" : ", missed"})`,
  );
  const { node, cores, cpu } = machine;
  return [
    `### ${name}`,
    `${question[0].toUpperCase()}${question.slice(1)} Node ${node}, ${cores} × ${cpu}, ${at.slice(0, 10)}.`,
    table.join("\n"),
    verdicts.join("\n"),
    notes.join("\n"),
  ]
    .filter((part) => part !== "")
    .join("\n\n");
}

function line(cells) {
  return `| ${cells.join(" | ")} |`;
}
