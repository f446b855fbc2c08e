// `semel demo`, and what every command says of itself (CLI-1, CLI-2).

import { readdir } from "node:fs/promises";
import { afterEach, expect, test } from "vitest";
import { cleanUp, folder, semel, semelIn } from "./processes.ts";

afterEach(cleanUp);

test("the demonstration charges once for each payment, through retries and a crash", async () => {
  const temporary = await folder();
  const { code, stdout, stderr } = await semelIn({ TMPDIR: temporary }, "demo", "--json");
  expect(stderr).toBe("");
  const acts = stdout
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));
  const end = acts.pop();
  expect(acts.map(({ charges }) => charges)).toEqual([1, 1, 1, 2, 3, 3, 3]);
  expect(
    acts[3].answers.reduce((sum: number, { times }: { times: number }) => sum + times, 0),
  ).toBe(acts[3].sent);
  expect(acts.every(({ asExpected }) => asExpected)).toBe(true);
  expect(end).toEqual({ charges: 3, asExpected: true });
  expect(code).toBe(0);
  expect(await readdir(temporary)).toEqual([]);
});

const COMMANDS = [
  ["gateway"],
  ["dashboard"],
  ["demo"],
  ["records"],
  ["records", "list"],
  ["records", "get"],
  ["records", "resolve"],
  ["records", "void"],
  ["records", "delete"],
  ["queue"],
  ["queue", "list"],
  ["queue", "get"],
  ["queue", "retry"],
  ["queue", "remove"],
  ["purge"],
  ["stats"],
  ["migrate"],
  ["doctor"],
  ["check"],
];

test("every command has help with examples and exit codes, and is in the list of commands", async () => {
  const { stdout: all } = await semel("--help");
  for (const command of COMMANDS) {
    const { code, stdout } = await semel(...command, "--help");
    expect(code, command.join(" ")).toBe(0);
    expect(stdout, command.join(" ")).toMatch(/Examples?:\n.*\$ semel /s);
    expect(stdout, command.join(" ")).toMatch(/Exit codes:/i);
    expect(all).toContain(`  ${command[0]} `);
  }
  const named = [...all.matchAll(/^ {2}([a-z]+) (?:\[|<)/gm)].map(([, name]) => name);
  const known = new Set(COMMANDS.map(([name]) => name));
  expect(named.filter((name) => name !== "help" && !known.has(name!))).toEqual([]);
});
