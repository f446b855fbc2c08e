// What every bench shares: medians, a table on the terminal, and a JSON file with the machine named.

import { mkdirSync, writeFileSync } from "node:fs";
import { cpus, totalmem } from "node:os";
import { join } from "node:path";

/** The middle of some numbers, so that one disturbed round counts for nothing. */
export function median(numbers) {
  const sorted = [...numbers].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/** The value below which a share of sorted numbers lies. */
export function percentile(sorted, share) {
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))];
}

/** A whole number from the environment, for a shorter or longer run. */
export function setting(name, fallback) {
  const value = process.env[name];
  if (value === undefined) return fallback;
  if (/^\d+$/.test(value)) return Number(value);
  throw new Error(`${name} must be a whole number, got ${JSON.stringify(value)}`);
}

export function rounded(value, digits = 1) {
  return Number(value.toFixed(digits));
}

/** Prints a table and the verdict on each target, and writes both to `results/<name>.json`. */
export function report(name, { question, rows, targets = [], notes = [] }) {
  const machine = {
    node: process.version,
    cpu: cpus()[0]?.model ?? "unknown",
    cores: cpus().length,
    memoryGiB: Math.round(totalmem() / 2 ** 30),
  };
  console.log(`\n${name}: ${question}`);
  console.log(`Node ${machine.node}, ${machine.cores} × ${machine.cpu}, ${machine.memoryGiB} GiB`);
  console.table(rows);
  for (const { what, target, measured, met } of targets) {
    console.log(`${met ? "met   " : "MISSED"} ${what}: ${measured} (target ${target})`);
  }
  for (const note of notes) console.log(note);
  const folder = join(import.meta.dirname, "results");
  mkdirSync(folder, { recursive: true });
  const result = { name, question, at: new Date().toISOString(), machine, rows, targets, notes };
  writeFileSync(join(folder, `${name}.json`), `${JSON.stringify(result, null, 2)}\n`);
}
