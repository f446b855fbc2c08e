// docs/check.md says of the cases what the catalogue says, and docs/conformance.md is of these cases.

import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { CASES } from "../../src/check/catalogue.ts";
import { SETUP_REQUESTS_MAX } from "../../src/check/run.ts";

function page(name: string): string {
  return readFileSync(new URL(`../../../../docs/${name}`, import.meta.url), "utf8");
}

test("the page on checking has every case, as it is, and how many requests there are at most", () => {
  const rows = page("check.md").match(/^\| (?:draft|careful) \|.*$/gm);
  expect(rows).toEqual(
    CASES.map(
      ({ tier, id, title, source, requestsMax }) =>
        `| ${tier} | \`${id}\` | ${title} | ${source} | ${requestsMax} |`,
    ),
  );
  const most = CASES.reduce((sum, { requestsMax }) => sum + requestsMax, SETUP_REQUESTS_MAX);
  expect(page("check.md")).toContain(`${most} requests at most`);
});

test("the generated table has a row for every case", () => {
  const rows = [
    ...page("conformance.md").matchAll(/^\| ([a-z-]+) \| (?:pass|skip|info|\*\*fail)/gm),
  ];
  expect(rows.map(([, id]) => id)).toEqual(CASES.map(({ id }) => id));
});

test("cases are named once, in kebab-case, and say where they come from", () => {
  expect(new Set(CASES.map(({ id }) => id)).size).toBe(CASES.length);
  for (const { id, source } of CASES) {
    expect(id).toMatch(/^[a-z]+(?:-[a-z]+)*$/);
    expect(source, id).toMatch(/draft-07 §|RFC \d+ §|HTTP-\d|SM-\d/);
  }
});
