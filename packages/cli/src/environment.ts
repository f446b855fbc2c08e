// Lets a flag be given by a variable of the environment: `--max-body` by SEMEL_MAX_BODY. Containers, units
// and pods are configured so.

import type { Option } from "commander";

/** Means no, where a flag is on when it is there. */
const NO = new Set(["0", "false", "no", "off"]);

export function fromEnvironment(option: Option): Option {
  if (option.envVar !== undefined || option.long === "--json") return option;
  const variable = variableOf(option);
  const isSwitch = !option.required && !option.optional;
  const written = process.env[variable]?.toLowerCase();
  // Commander asks only whether the variable is there; compose files set what they do not know to nothing.
  if (written === "" || (isSwitch && NO.has(written ?? ""))) delete process.env[variable];
  return option.env(variable);
}

function variableOf({ long }: Option): string {
  return `SEMEL_${long!.slice(2).replaceAll("-", "_").toUpperCase()}`;
}
