// On a terminal, which `script` gives a command: tables, and a question before a record is forgotten.

import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { Idempotency } from "semel";
import { afterEach, expect, test } from "vitest";
import { openStore } from "../../src/stores/open.ts";
import { cleanUp, folder, later, semel } from "../processes.ts";

afterEach(cleanUp);

const MAIN = fileURLToPath(new URL("../../dist/main.js", import.meta.url));
const isThere = spawnSync("script", ["--version"]).status === 0;
const reason = isThere ? "" : " (skipped: no `script` of util-linux on this machine)";

/** Runs the command on a terminal; what is asked is answered. */
async function onTerminal(store: string, args: string[], answer = ""): Promise<[number, string]> {
  const command = [process.execPath, MAIN, ...args].map((word) => `'${word}'`).join(" ");
  const child = spawn("script", ["-qec", command, "/dev/null"], {
    env: { ...process.env, SEMEL_STORE: store, NO_COLOR: "1" },
    stdio: ["pipe", "pipe", "inherit"],
  });
  later(() => child.kill("SIGKILL"));
  let text = "";
  child.stdout.setEncoding("utf8").on("data", (chunk: string) => {
    text += chunk;
    if (answer !== "" && text.includes("[y/N] ")) {
      child.stdin.write(`${answer}\n`);
      answer = "";
    }
  });
  const [code] = await once(child, "close");
  return [code, text.replaceAll("\r\n", "\n")];
}

/** The address comes from SEMEL_STORE. */
async function storeWithRecord(): Promise<string> {
  const store = `sqlite:${join(await folder(), "semel.db")}`;
  expect(await semel("migrate", "--store", store)).toMatchObject({ code: 0 });
  const open = await openStore({ store }, "administer");
  await new Idempotency({ store: open.store, sweep: false }).run({ key: "k" }, () => 1);
  await open.close();
  return store;
}

test.skipIf(!isThere)(
  `records are a table with a head, also the one of stats${reason}`,
  async () => {
    const store = await storeWithRecord();
    const [code, text] = await onTerminal(store, ["records", "list"]);
    expect(code).toBe(0);
    expect(text).toMatch(/^STATE +ATTEMPT +AGE +EXPIRES +REASON +SCOPE +KEY\ncompleted +1 .* k\n$/);
    const [, stats] = await onTerminal(store, ["stats"]);
    expect(stats).toMatch(/^WHAT +NUMBER\nrunning +0\ncompleted +1\n/);
    const [, doctor] = await onTerminal(store, ["doctor"]);
    expect(doctor).toMatch(/ok {4}durability .*Failure windows that stay open\n {2}- SQLite/s);
  },
);

test.skipIf(!isThere)(`a record is forgotten only when somebody says yes${reason}`, async () => {
  const store = await storeWithRecord();
  const [declined, said] = await onTerminal(store, ["records", "delete", "k"], "n");
  expect(declined).toBe(3);
  expect(said).toContain("nothing was forgotten");
  expect(await semel("records", "get", "k", "--store", store)).toMatchObject({ code: 0 });
  const [confirmed] = await onTerminal(store, ["records", "delete", "k"], "y");
  expect(confirmed).toBe(0);
  expect(await semel("records", "get", "k", "--store", store)).toMatchObject({ code: 3 });
});
