// Requests under the scope "shared" have none in their records, which is easily taken for its name.

import { join } from "node:path";
import { Idempotency } from "semel";
import { idempotent } from "semel/fetch";
import { afterEach, expect, test } from "vitest";
import { openStore } from "../../src/stores/open.ts";
import { cleanUp, folder, semel } from "../processes.ts";

afterEach(cleanUp);

test("who asks for them under --scope shared is told where they are, and voids nothing", async () => {
  const flags = ["--store", `sqlite:${join(await folder(), "semel.db")}`];
  expect(await semel("migrate", ...flags)).toMatchObject({ code: 0 });
  const open = await openStore({ store: flags[1]! }, "administer");
  const idempotency = new Idempotency({ store: open.store, sweep: false });
  const pay = idempotent(idempotency, { scope: "shared", onError: "hold" }, () => {
    throw new Error("no answer");
  });
  const headers = { "idempotency-key": "pay-1" };
  await pay(new Request("http://localhost/pay", { method: "POST", headers })).catch(() => {});
  await idempotency.run({ key: "own", scope: "shared", onError: "hold" }, () => 1);
  await open.close();

  const records = (command: string, key: string, ...more: string[]) =>
    semel("records", command, key, ...more, ...flags);
  const shared = ["--scope", "shared"];
  const told = expect.stringMatching(/no record of pay-1 in scope shared; .*leave --scope out/);
  for (const asked of [["get"], ["resolve", "--not-applied"], ["void"], ["delete", "--yes"]]) {
    const [command, ...more] = asked as [string, ...string[]];
    const refused = await records(command, "pay-1", ...more, ...shared);
    expect(refused, command).toMatchObject({ code: 3, stdout: "", stderr: told });
  }
  expect((await records("get", "pay-1", "--json")).stdout).toContain('"state":"held"');

  expect(await records("get", "own", ...shared)).toMatchObject({ code: 0 });
  const nowhere = await records("get", "none", ...shared);
  expect(nowhere.stderr).not.toContain("leave --scope out");
  expect(await records("void", "none", ...shared)).toMatchObject({ code: 0 });
});
