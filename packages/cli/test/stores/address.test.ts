// How a store is named to a shell.

import { expect, test } from "vitest";
import { flagsNaming } from "../../src/stores/address.ts";

test("a store is named by all that finds it, quoted where a shell would read it otherwise", () => {
  expect(flagsNaming("sqlite:./semel.db", {})).toBe("--store sqlite:./semel.db");
  expect(flagsNaming("postgres://db/shop", { table: "audit" })).toBe(
    "--store postgres://db/shop --table audit",
  );
  expect(flagsNaming("redis://cache", { prefix: "shop $1:" })).toBe(
    "--store redis://cache --prefix 'shop $1:'",
  );
  expect(flagsNaming("sqlite:it's.db", {})).toBe("--store 'sqlite:it'\\''s.db'");
});
