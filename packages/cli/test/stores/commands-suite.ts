// What every command does on every store, through the built command as a process (CLI-1, CLI-2).

import { Idempotency, type Operation } from "semel";
import { idempotent } from "semel/fetch";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { openStore } from "../../src/stores/open.ts";
import { type Finished, semel } from "../processes.ts";
import type { TestStore, Undo } from "./fixtures.ts";

interface Kind {
  name: string;
  hasTables: boolean;
  /** Whether the server itself removes what has expired. */
  expires: boolean;
}

export function describeCommands(kind: Kind, found: TestStore): void {
  const reason = "reason" in found ? ` (skipped: ${found.reason})` : "";
  describe.skipIf(reason !== "")(`the command on ${kind.name}${reason}`, () => {
    const { flags, close } = found as { flags: string[]; close: Undo };
    afterAll(close);
    if (kind.hasTables) describeMigration(kind, flags);
    describe("with records", () => {
      beforeAll(async () => {
        expect(await semel("migrate", ...flags)).toMatchObject({ code: 0, stderr: "" });
        await fill(flags);
      });
      describeLooking(flags);
      describeDeciding(flags);
      describeCollecting(kind, flags);
      describe("with a queue", () => describeQueue(flags));
    });
  });
}

function describeMigration({ name }: Kind, flags: string[]): void {
  test("before it is migrated, a command says how to, and a gateway does not start", async () => {
    // A file is made by its first user; a missing one is named as such.
    const says =
      name === "SQLite" ? /no such file.*semel migrate --store/ : /run `semel migrate --store/;
    const stats = await semel("stats", ...flags);
    expect(stats).toMatchObject({ code: 1, stdout: "", stderr: expect.stringMatching(says) });
    expect(stats.stderr.trim()).not.toContain("\n");
    if (name === "SQLite") return;
    const gateway = await semel("gateway", "--upstream", "http://127.0.0.1:9", ...flags);
    expect(gateway).toMatchObject({ code: 1, stderr: expect.stringMatching(says) });
  });

  test("what a command says to run names the tables that it was asked about", async () => {
    const named = ["--table", "audit log"];
    const stats = await semel("stats", ...flags, ...named);
    const hint = expect.stringMatching(/`semel migrate --store \S+ --table 'audit log'`/);
    expect(stats).toMatchObject({ code: 1, stderr: hint });
    const doctor = await semel("doctor", ...flags, ...named);
    expect(doctor.stdout + doctor.stderr).toEqual(hint);
  });

  test("many migrate at once, and again", async () => {
    const all = await Promise.all([1, 2, 3, 4].map(() => semel("migrate", "--json", ...flags)));
    for (const { code, stdout, stderr } of [...all, await semel("migrate", "--json", ...flags)]) {
      expect([code, stderr]).toEqual([0, ""]);
      expect(JSON.parse(stdout)).toMatchObject({ ready: true, hasTables: true });
    }
    expect(await semel("stats", ...flags)).toMatchObject({ code: 0 });
  });
}

/** The route of the operation `held-2`. */
function payment(idempotency: Idempotency, handler: () => Promise<Response>) {
  const options = { scope: () => "b", key: () => "held-2", onError: "hold" } as const;
  const handle = idempotent(idempotency, options, handler);
  return () => handle(new Request("http://localhost/pay", { method: "POST", body: "{}" }));
}

/** Makes an operation of every kind, as an application does. */
async function fill(flags: string[]): Promise<void> {
  await withStore(flags, async (idempotency) => {
    await idempotency.run({ key: "value", scope: "a" }, () => ({ id: 1, at: new Date(0) }));
    const handler = idempotent(
      idempotency,
      { scope: () => "a", key: (request) => new URL(request.url).searchParams.get("key")! },
      (request) =>
        request.url.includes("binary")
          ? new Response(new Uint8Array([0xff, 0xfe, 0]), { status: 200 })
          : Response.json({ paid: true }, { status: 201, headers: { location: "/charges/1" } }),
    );
    for (const key of ["http", "binary"]) {
      await handler(new Request(`http://localhost/?key=${key}`, { method: "POST", body: "x" }));
    }
    const fails = () => Promise.reject(new Error("the card was refused"));
    await idempotency.run({ key: "failed", scope: "a", onError: "store" }, fails).catch(() => {});
    for (const key of ["held-1", "held-3", "held-4"]) {
      await idempotency.run({ key, scope: "b", onError: "hold" }, fails).catch(() => {});
    }
    await payment(idempotency, fails)().catch(() => {});
    const oneStep = async ({ step }: Operation) => {
      await step("charge", () => ({ secret: "of the step" }));
      await fails();
    };
    await idempotency.run({ key: "released", scope: "b" }, oneStep).catch(() => {});
    await idempotency.run({ key: "hostile", scope: "c\u001b[31m\n\t" }, () => "\u001b[2J");
  });
}

async function withStore(
  flags: string[],
  work: (idempotency: Idempotency) => Promise<unknown>,
): Promise<void> {
  const named = (flag: string) =>
    flags.includes(flag) ? flags[flags.indexOf(flag) + 1]! : undefined;
  const prefix = named("--prefix");
  const open = await openStore(
    { store: named("--store")!, ...(prefix !== undefined && { prefix }) },
    "administer",
  );
  try {
    await work(new Idempotency({ store: open.store, sweep: false, cache: false }));
  } finally {
    await open.close();
  }
}

function lines({ stdout }: Finished): string[] {
  return stdout.split("\n").slice(0, -1);
}

function jsonLines(finished: Finished): Record<string, unknown>[] {
  expect([finished.code, finished.stderr]).toEqual([0, ""]);
  return lines(finished).map((line) => JSON.parse(line));
}

function describeLooking(flags: string[]): void {
  const list = (...more: string[]) => semel("records", "list", ...more, ...flags);
  const get = (key: string, ...more: string[]) => semel("records", "get", key, ...more, ...flags);

  test("list: as fields with tabs when piped, without what would steer a terminal", async () => {
    const listed = await list();
    expect(listed).toMatchObject({ code: 0, stderr: "" });
    const rows = lines(listed).map((line) => line.split("\t"));
    expect(rows).toHaveLength(10);
    for (const row of rows) expect(row).toHaveLength(7);
    expect(listed.stdout).not.toContain("\u001b");
    const hostile = rows.find((row) => row[6] === "hostile");
    expect(hostile?.[5]).toBe("c\\u{001b}[31m\\n\\t");
    const held = rows.find((row) => row[6] === "held-1");
    expect([held?.[0], held?.[1], held?.[3], held?.[5]]).toEqual(["held", "1", "", "b"]);
    expect(Number(held?.[2])).toBeGreaterThan(0);
  });

  test("list: filters by scope, state and age, and goes on with a cursor", async () => {
    const keys = (records: Record<string, unknown>[]) => records.map(({ key }) => key);
    const held = jsonLines(await list("--state", "held", "--json"));
    expect(keys(held).sort()).toEqual(["held-1", "held-2", "held-3", "held-4"]);
    const ofA = jsonLines(await list("--scope", "a", "--state", "completed", "--json"));
    expect(keys(ofA).sort()).toEqual(["binary", "failed", "http", "value"]);
    expect(jsonLines(await list("--older-than", "1h", "--json"))).toEqual([]);
    const seen: unknown[] = [];
    let cursor: string[] = [];
    do {
      const page = jsonLines(await list("--limit", "3", "--json", ...cursor));
      const next = page.find((line) => "cursor" in line);
      seen.push(...keys(page.filter((line) => line !== next)));
      cursor = next ? ["--cursor", String(next["cursor"])] : [];
    } while (cursor.length > 0);
    expect(new Set(seen).size).toBe(10);
    expect(seen).toHaveLength(10);
    const piped = await list("--limit", "1");
    expect(piped.stderr).toMatch(/^more: --cursor \S+\n$/);
    const wrong = await list("--cursor", "nonsense?");
    expect(wrong).toMatchObject({ code: 2, stderr: expect.stringContaining("--cursor") });
  });

  test("get: a response of HTTP, whole", async () => {
    const { code, stdout } = await get("http", "--scope", "a");
    expect(code).toBe(0);
    expect(stdout).toMatch(/state +completed\n/);
    expect(stdout).toMatch(/result +HTTP 201\n\n/);
    expect(stdout).toContain("location: /charges/1\n");
    expect(stdout).toContain('{"paid":true}\n');
    const [json] = jsonLines(await get("http", "--scope", "a", "--json"));
    expect(json).toMatchObject({
      ...{ key: "http", scope: "a", state: "completed", attempt: 1 },
      result: { kind: "http", status: 201, body: '{"paid":true}' },
    });
    expect(json).not.toHaveProperty("owner");
    const [binary] = jsonLines(await get("binary", "--scope", "a", "--json"));
    expect(binary).toMatchObject({ result: { kind: "http", bodyBase64: "//4A" } });
    expect((await get("binary", "--scope", "a")).stdout).toContain("(3 bytes, not text)");
  });

  test("get: a value, a failure, a hold, and what would steer a terminal", async () => {
    const [value] = jsonLines(await get("value", "--scope", "a", "--json"));
    const result = { kind: "value", value: { id: 1, at: "1970-01-01T00:00:00.000Z" } };
    expect(value).toMatchObject({ result });
    expect((await get("failed", "--scope", "a")).stdout).toContain("the card was refused");
    const held = await get("held-1", "--scope", "b");
    expect(held.stdout).toMatch(/state +held\nreason +/);
    expect(held.stdout).toMatch(/expires +when resolved\n/);
    const hostile = await get("hostile", "--scope", "c\u001b[31m\n\t");
    expect(hostile.code).toBe(0);
    expect(hostile.stdout).not.toContain("\u001b");
  });

  test("get: the steps of an operation by name, without what they returned", async () => {
    const shown = await get("released", "--scope", "b");
    expect(shown.stdout).toMatch(/steps +charge \(done, attempt 1\)\n/);
    const [json] = jsonLines(await get("released", "--scope", "b", "--json"));
    expect(json).toMatchObject({ steps: [{ name: "charge", state: "done", attempt: 1 }] });
    expect(JSON.stringify(json) + shown.stdout).not.toContain("of the step");
  });

  test("get: what is not there ends with 3", async () => {
    const missing = await get("http");
    expect(missing).toMatchObject({ code: 3, stdout: "" });
    expect(missing.stderr).toBe(
      "error: there is no record of http without a scope; name one with --scope\n",
    );
  });

  test("stats: counts by state", async () => {
    const [stats] = jsonLines(await semel("stats", "--json", ...flags));
    const states = { running: 0, completed: 5, held: 4, open: 1, void: 0 };
    expect(stats).toMatchObject({ states });
    expect(stats?.["oldestHeldMs"]).toBeGreaterThan(0);
    const plain = await semel("stats", ...flags);
    expect(lines(plain).map((line) => line.split("\t")[0])).toEqual([
      "running",
      "completed",
      "held",
      "open",
      "void",
      "oldest-held",
      "size",
      ...["tasks-waiting", "tasks-done", "tasks-dead", "oldest-due-task"],
      ...["effects-waiting", "effects-done", "effects-dead", "oldest-due-effect"],
    ]);
    expect(plain.stdout).toContain("held\t4\n");
  });

  test("doctor: tells the retention and the holds of what is there", async () => {
    const { stdout } = await semel("doctor", "--json", ...flags);
    const { findings } = JSON.parse(stdout) as {
      findings: { check: string; verdict: string; found: string }[];
    };
    const find = (check: string) => findings.find((finding) => finding.check === check);
    expect(find("store")).toMatchObject({ verdict: "ok" });
    expect(find("clock")).toMatchObject({ verdict: "ok" });
    expect(find("retention")?.found).toBe("of the last 5 completed: 24 h");
    expect(find("holds")).toMatchObject({
      verdict: "note",
      found: expect.stringMatching(/^4 held/),
    });
  });
}

function describeQueue(flags: string[]): void {
  const queue = (command: string, ...more: string[]) => semel("queue", command, ...more, ...flags);
  const listed = async (...more: string[]) => jsonLines(await queue("list", "--json", ...more));
  const idOf = async (name: string) =>
    String((await listed()).find((item) => item["name"] === name)!["id"]);

  beforeAll(() => withStore(flags, (idempotency) => fillQueue(idempotency)));

  test("queue list: what waits, was delivered or given up, filtered, and a page at a time", async () => {
    const piped = await queue("list", "--state", "dead");
    expect(piped).toMatchObject({ code: 0, stderr: "" });
    const [dead] = lines(piped).map((line) => line.split("\t"));
    const [state, attempts, age, due, id, name, ...names] = dead!;
    expect([state, attempts, due, name]).toEqual(["dead", "1", "", "mail"]);
    expect(Number(age)).toBeGreaterThanOrEqual(0);
    expect(id).toMatch(/^[0-9a-f-]{36}$/);
    expect(names).toEqual(["q", "order", "attempts-exhausted: no such\\u{001b}[31m mailbox"]);
    const states = (items: Record<string, unknown>[]) =>
      items.map((item) => `${item["name"]} ${item["state"]}`).sort();
    expect(states(await listed())).toEqual(["mail dead", "sms waiting", "webhook done"]);
    expect(states(await listed("--name", "sms"))).toEqual(["sms waiting"]);
    expect(states(await listed("--kind", "task"))).toEqual(["ride waiting"]);
    const [first, next] = await listed("--limit", "1");
    const rest = await listed("--cursor", String(next!["cursor"]));
    expect(states([first!, ...rest])).toEqual(["mail dead", "sms waiting", "webhook done"]);
    const none = await queue("list", "--name", "nothing");
    expect(none).toMatchObject({ code: 0, stdout: "" });
  });

  test("queue get: one item with what was recorded; its record names it", async () => {
    const id = await idOf("mail");
    const [json] = jsonLines(await queue("get", id, "--json"));
    expect(json).toMatchObject({ kind: "effect", payload: { value: { to: "ada@example.com" } } });
    const { stdout } = await queue("get", id);
    expect(stdout).toContain("ada@example.com");
    expect(stdout).not.toContain("\u001b");
    const record = await semel("records", "get", "order", "--scope", "q", ...flags);
    expect(record.stdout).toMatch(
      /effects {3}mail \(dead after 1 attempt: attempts-exhausted: no such.*\), webhook \(done after 1 attempt\), sms \(waiting\)/,
    );
  });

  test("doctor: tells what was given up", async () => {
    const { stdout } = await semel("doctor", "--json", ...flags);
    const { findings } = JSON.parse(stdout) as { findings: { check: string }[] };
    expect(findings.find(({ check }) => check === "queue")).toMatchObject({
      verdict: "note",
      found: "1 given up",
      remedy: expect.stringMatching(/semel queue retry/),
    });
  });

  test("queue retry: what was given up waits again; what is done, and what is absent, ends with 3", async () => {
    const id = await idOf("mail");
    expect(jsonLines(await queue("retry", id, "--json"))).toEqual([{ id, retried: true }]);
    expect(await listed("--name", "mail")).toMatchObject([{ state: "waiting", attempts: 0 }]);
    const done = await queue("retry", await idOf("webhook"));
    expect(done).toMatchObject({ code: 3, stderr: expect.stringMatching(/is done/) });
    const absent = await queue("retry", "00000000-0000-4000-8000-000000000000");
    expect(absent).toMatchObject({
      code: 3,
      stderr: expect.stringMatching(/nothing in the queue/),
    });
    const wrong = await queue("retry", "mail");
    expect(wrong).toMatchObject({ code: 2, stderr: expect.stringMatching(/An id is a UUID/) });
  });

  test("queue remove: only with --yes where nobody can be asked; then it is gone", async () => {
    const id = await idOf("sms");
    expect(await queue("remove", id)).toMatchObject({
      code: 2,
      stderr: expect.stringMatching(/say --yes/),
    });
    expect(await queue("remove", id, "--yes")).toMatchObject({
      code: 0,
      stdout: "effect sms of order: forgotten\n",
    });
    expect(await queue("get", id)).toMatchObject({ code: 3 });
  });
}

/** One effect in each state, and a durable operation that waits. */
async function fillQueue(idempotency: Idempotency): Promise<void> {
  await idempotency.run({ key: "order", scope: "q" }, async ({ effect }) => {
    await effect("mail", { to: "ada@example.com" });
    await effect("webhook");
    await effect("sms");
  });
  const fails = () => Promise.reject(new Error("no such\u001b[31m mailbox"));
  const relay = idempotency.relay({
    mail: { deliver: fails, attemptsMax: 1 },
    webhook: () => {},
  });
  await relay.drain();
  await relay.close();
  const ride = idempotency.operation("ride", { handler: () => "done" });
  await ride.start({ key: "ride-1", scope: "q", input: {} });
}

function describeDeciding(flags: string[]): void {
  const b = ["--scope", "b", ...flags];
  const resolve = (key: string, ...verdict: string[]) =>
    semel("records", "resolve", key, ...verdict, ...b);
  const never = () => Promise.reject(new Error("ran a second time"));

  test("resolve --applied: a result that its callers cannot be given is refused, with the flags to use", async () => {
    expect(await resolve("held-1", "--applied", "--status", "201")).toMatchObject({
      code: 2,
      stderr: expect.stringMatching(/of run\(\).*--value/),
    });
    expect(await resolve("held-2", "--applied", "--value", "1")).toMatchObject({
      code: 2,
      stderr: expect.stringMatching(/over HTTP.*--status, --header and --body/),
    });
  });

  test("resolve --applied: later callers get the value (SM-12)", async () => {
    const resolved = await resolve("held-1", "--applied", "--value", '{"charge":"ch_1"}');
    expect(resolved).toMatchObject({ code: 0, stderr: "" });
    await withStore(flags, async (idempotency) => {
      const outcome = await idempotency.run({ key: "held-1", scope: "b" }, never);
      expect(outcome).toMatchObject({ value: { charge: "ch_1" }, replayed: true });
    });
  });

  test("resolve --applied: later callers get the response (SM-12)", async () => {
    const answer = ["--status", "202", "--header", "Location: /c/2", "--body", "late"];
    expect(await resolve("held-2", "--applied", ...answer, "--json")).toMatchObject({ code: 0 });
    await withStore(flags, async (idempotency) => {
      const replay = await payment(idempotency, never)();
      expect([replay.status, await replay.text()]).toEqual([202, "late"]);
    });
    const { stdout } = await semel("records", "get", "held-2", "--json", ...b);
    expect(JSON.parse(stdout)).toMatchObject({
      state: "completed",
      result: { kind: "http", status: 202, headers: [["location", "/c/2"]], body: "late" },
    });
  });

  test("resolve --not-applied: the key runs again (SM-12)", async () => {
    expect(await resolve("held-3", "--not-applied")).toMatchObject({ code: 0 });
    await withStore(flags, async (idempotency) => {
      const outcome = await idempotency.run({ key: "held-3", scope: "b" }, () => "now");
      expect(outcome).toMatchObject({ value: "now", replayed: false, attempt: 2 });
    });
  });

  test("resolve: what is not held, and what is not there, is left and ends with 3", async () => {
    const refused = await resolve("held-3", "--not-applied");
    expect(refused).toMatchObject({
      code: 3,
      stderr: expect.stringContaining("held-3 is completed"),
    });
    expect(await resolve("nobody", "--not-applied")).toMatchObject({ code: 3 });
  });

  test("void: the key never runs; what has completed is left (SM-13)", async () => {
    const wish = (key: string) => semel("records", "void", key, ...b);
    expect(await wish("unseen")).toMatchObject({ code: 0, stderr: "" });
    expect(await wish("held-4")).toMatchObject({ code: 0 });
    expect(await wish("held-3")).toMatchObject({
      code: 3,
      stderr: expect.stringContaining("completed"),
    });
    await withStore(flags, async (idempotency) => {
      for (const key of ["unseen", "held-4"]) {
        const run = idempotency.run({ key, scope: "b" }, never);
        await expect(run).rejects.toMatchObject({ code: "operation-void" });
      }
    });
  });

  test("delete: only with --yes where nobody can be asked; the key may run again", async () => {
    const forget = (...more: string[]) => semel("records", "delete", "held-3", ...more, ...b);
    expect(await forget()).toMatchObject({ code: 2, stderr: expect.stringContaining("--yes") });
    expect(await semel("records", "get", "held-3", ...b)).toMatchObject({ code: 0 });
    expect(await forget("--yes")).toMatchObject({ code: 0, stderr: "" });
    expect(await forget("--yes")).toMatchObject({ code: 3 });
  });

  test("what runs under a live lease can be neither voided nor deleted", async () => {
    await withStore(flags, async (idempotency) => {
      await idempotency.run({ key: "running", scope: "b" }, async () => {
        const voided = await semel("records", "void", "running", ...b);
        expect(voided).toMatchObject({ code: 3, stderr: expect.stringContaining("is running") });
        const deleted = await semel("records", "delete", "running", "--yes", ...b);
        expect(deleted).toMatchObject({ code: 3, stderr: expect.stringContaining("is running") });
      });
    });
  });
}

function describeCollecting({ expires }: Kind, flags: string[]): void {
  test("purge: removes what has expired, and nothing else", async () => {
    const count = async () => {
      const [stats] = jsonLines(await semel("stats", "--json", ...flags));
      return stats?.["states"];
    };
    const before = await count();
    await withStore(flags, async (idempotency) => {
      for (const key of ["p1", "p2", "p3"]) {
        await idempotency.run({ key, scope: "p", retention: "1ms" }, () => 1);
      }
    });
    // It takes longer to start than they are kept.
    const [purged] = jsonLines(await semel("purge", "--json", "--batch", "2", ...flags));
    if (!expires) expect(purged).toEqual({ removed: 3, stopped: false });
    expect(await count()).toEqual(before);
    const again = await semel("purge", ...flags);
    expect(again).toEqual({ code: 0, stdout: "Removed 0 expired records\n", stderr: "" });
  });
}
