// The JSON of the admin listener: records a page at a time, one with its timeline, and decisions. On
// SQLite, in the gateway's process, and on Postgres, beside an application that uses the library.

import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { Idempotency } from "semel";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { openStore } from "../../src/stores/open.ts";
import { cleanUp, folder, semel, started } from "../processes.ts";
import { postgresDatabase } from "../stores/fixtures.ts";
import { administered, adminUrl, api, ask, SCOPE } from "./administering.ts";

describe("in a gateway", () => {
  afterEach(cleanUp);

  test("records come a page at a time, newest first, filtered by scope, state and age", async () => {
    const { url, pay } = await administered();
    for (let n = 1; n <= 5; n++) await pay(`key-${n}`);
    await pay("held", "/broken");
    const first = await api.records(url, "limit=4");
    expect(first.records.map(({ key }) => key)).toEqual(["held", "key-5", "key-4", "key-3"]);
    const second = await api.records(url, `limit=4&cursor=${encodeURIComponent(first.cursor!)}`);
    expect(second.records.map(({ key }) => key)).toEqual(["key-2", "key-1"]);
    expect(second.cursor).toBeNull();
    const held = await api.records(url, "state=held");
    expect(held.records).toMatchObject([{ key: "held", state: "held", scope: SCOPE, attempt: 1 }]);
    expect((await api.records(url, "scope=other")).records).toEqual([]);
    expect((await api.records(url, "olderThanMs=3600000")).records).toEqual([]);
    expect(JSON.stringify(first)).not.toContain("owner");
  });

  test("a search finds parts of keys and scopes, and says how far it looked", async () => {
    const { url, pay } = await administered();
    for (const key of ["order-1", "order-2", "refund-1"]) await pay(key);
    const found = await api.records(url, "find=ORDER");
    expect(found.records.map(({ key }) => key)).toEqual(["order-2", "order-1"]);
    expect([found.searched, found.cursor, found.exact]).toEqual([3, null, null]);
    const whole = new URLSearchParams({ find: "order-1", scope: SCOPE });
    expect((await api.records(url, String(whole))).exact).toMatchObject({ key: "order-1" });
    expect((await api.records(url, "find=%C3%A4")).exact).toBeNull();
    expect((await api.records(url, "find=acme&limit=2")).records).toHaveLength(3);
    expect((await api.records(url, "find=nothing")).records).toEqual([]);
  });

  test("a record has its timeline: what its steps were called, and what this process saw", async () => {
    const { url, pay } = await administered();
    await pay("k", "/fails");
    await pay("k", "/fails");
    await pay("k", "/broken");
    await pay("done");
    await pay("done");
    const { record, steps, result, sightings } = await api.record(url, "done");
    expect(record).toMatchObject({ key: "done", scope: SCOPE, state: "completed", attempt: 1 });
    expect(result).toEqual({ kind: "http", status: 201, bytes: 12 });
    expect(steps).toEqual([]);
    expect(sightings.map(({ what }) => what)).toEqual(["begun", "executed", "replayed"]);
    const byId = (await ask(url, `/-/api/record?id=${record.id}`)).json;
    expect(byId.record).toMatchObject({ key: "done" });
    const failed = await api.record(url, "k");
    expect(failed.sightings.map(({ what }) => what)).toEqual([
      "begun",
      "released",
      "begun",
      "released",
      "mismatch",
    ]);
    const missing = await ask(url, "/-/api/record?key=none");
    expect([missing.status, missing.json.code]).toEqual([404, "absent"]);
  });

  test("resolve --not-applied lets the key run again, with what callers get from then on", async () => {
    const { url, pay, charges } = await administered();
    await pay("k", "/broken", "{}");
    expect((await pay("k", "/broken", "{}")).fate).toBe("unknown");
    const name = { key: "k", scope: SCOPE };
    expect(await api.decide(url, "resolve", { ...name, outcome: "not-applied" })).toEqual({
      done: true,
    });
    expect((await api.record(url, "k")).record.state).toBe("open");
    const again = await api.decide(url, "resolve", { ...name, outcome: "not-applied" });
    expect(again).toEqual({ done: false, state: "open" });
    expect(charges()).toBe(0);
  });

  test("resolve --applied gives every caller the answer that was said", async () => {
    const { url, pay, charges } = await administered();
    await pay("k", "/broken");
    const response = {
      status: 201,
      headers: [["content-type", "application/json"]],
      body: '{"charge":7}',
    };
    const body = { key: "k", scope: SCOPE, outcome: "applied", response };
    expect(await api.decide(url, "resolve", body)).toEqual({ done: true });
    expect(await pay("k", "/broken")).toEqual({
      status: 201,
      fate: "replayed",
      text: '{"charge":7}',
    });
    const shown = await ask(
      url,
      `/-/api/result?${new URLSearchParams({ key: "k", scope: SCOPE })}`,
    );
    expect(shown.json).toMatchObject({ kind: "http", status: 201, body: '{"charge":7}' });
    expect(charges()).toBe(0);
  });

  test("void and delete; what is forgotten is not replayed from the gateway's memory either", async () => {
    const { url, pay } = await administered();
    await pay("held", "/broken");
    expect(await api.decide(url, "void", { key: "held", scope: SCOPE })).toEqual({ done: true });
    expect((await pay("held", "/broken")).fate).toBe("void");
    await pay("k");
    expect(await api.decide(url, "void", { key: "k", scope: SCOPE })).toEqual({
      done: false,
      state: "completed",
    });
    expect((await pay("k")).fate).toBe("replayed");
    expect(await api.decide(url, "delete", { key: "k", scope: SCOPE })).toEqual({ done: true });
    expect(await pay("k")).toMatchObject({ fate: "executed", text: '{"charge":2}' });
    expect(await api.decide(url, "delete", { key: "none", scope: SCOPE })).toEqual({
      done: false,
      state: "absent",
    });
  });

  test("decisions are remembered for as long as any answer is kept, by what was read last", async () => {
    const path = join(await folder(), "semel.yaml");
    const retaining = (days: number) =>
      writeFile(path, `routes: [{ path: /broken, retention: ${days}d }, { path: /other }]`);
    await retaining(30);
    const { url, pay, process } = await administered("--config", path, "--retention", "2h");
    const leftDays = async (key: string) => {
      const { record } = await api.record(url, key);
      return Math.ceil(record.expiresInMs! / 86_400_000);
    };
    for (const key of ["applied", "not-applied", "later"]) await pay(key, "/broken");
    const response = { status: 201, headers: [], body: "" };
    const applied = { key: "applied", scope: SCOPE, outcome: "applied", response };
    await api.decide(url, "resolve", applied);
    await api.decide(url, "resolve", { key: "not-applied", scope: SCOPE, outcome: "not-applied" });
    await api.decide(url, "void", { key: "never-seen", scope: SCOPE });
    for (const key of ["applied", "not-applied", "never-seen"]) {
      expect(await leftDays(key), key).toBe(30);
    }
    await retaining(60);
    process.child.kill("SIGHUP");
    await process.logged(({ event }) => event === "reloaded");
    await api.decide(url, "void", { key: "later", scope: SCOPE });
    expect(await leftDays("later")).toBe(60);
  });

  const name = { key: "k", scope: "" };
  const WRONG: [path: string, body: unknown, status: number, says: RegExp][] = [
    ["/-/api/records?limit=0", undefined, 400, /"limit" must be a number from 1 to 200/],
    ["/-/api/records?limit=x", undefined, 400, /"limit"/],
    ["/-/api/records?state=stuck", undefined, 400, /"state" must be one of running, completed/],
    ["/-/api/records?cursor=nonsense%3F", undefined, 400, /cursor/],
    ["/-/api/record?id=../x", undefined, 400, /"id" must be 32 hexadecimal/],
    ["/-/api/record?key=", undefined, 400, /key/i],
    ["/-/api/nothing", undefined, 404, /nothing here/],
    ["/-/api/resolve", "{", 400, /not JSON/],
    ["/-/api/resolve", [], 400, /must be a JSON object/],
    ["/-/api/resolve", name, 400, /"outcome" must be/],
    ["/-/api/resolve", { ...name, outcome: "applied" }, 400, /either "response".*or "value"/],
    ["/-/api/resolve", { ...name, outcome: "applied", value: 1, response: {} }, 400, /either/],
    ["/-/api/resolve", { ...name, outcome: "applied", response: { status: 99 } }, 400, /status/],
    [
      "/-/api/resolve",
      { ...name, outcome: "applied", response: { status: 200, headers: ["a"] } },
      400,
      /"headers"/,
    ],
    [
      "/-/api/resolve",
      { ...name, outcome: "applied", response: { status: 200, headers: [["a b", "c"]] } },
      400,
      /HTTP cannot send/,
    ],
    ["/-/api/void", { key: "k" }, 400, /"scope" must be a string/],
    ["/-/api/void", { ...name, key: "\u0000" }, 400, /key/i],
    ["/-/api/void", "x".repeat(3 * 2 ** 20), 413, /at most/],
  ];

  test("bad input is refused with what is wrong with it, and changes nothing", async () => {
    const { process, url } = await administered();
    for (const [path, body, status, says] of WRONG) {
      const refused = await ask(url, path, { body });
      expect([path, refused.status], JSON.stringify(body)?.slice(0, 80)).toEqual([path, status]);
      expect(refused.json.detail).toMatch(says);
    }
    const text = { "content-type": "text/plain" };
    expect((await ask(url, "/-/api/void", { body: name, headers: text })).status).toBe(415);
    expect((await api.records(url)).records).toEqual([]);
    expect(process.log.filter(({ level }) => level === "error")).toEqual([]);
  });
});

const database = await postgresDatabase();
const reason = "reason" in database ? ` (skipped: ${database.reason})` : "";

describe.skipIf(reason !== "")(`beside an application, on Postgres${reason}`, () => {
  const { flags, close } = database as Exclude<typeof database, { reason: string }>;
  afterAll(async () => {
    await cleanUp();
    await close?.();
  });

  let url: string;
  beforeAll(async () => {
    await semel("migrate", ...flags);
    const process = await started(["dashboard", ...flags, "--listen", "127.0.0.1:0", "--json"]);
    url = adminUrl(process);
  });

  async function applied(work: (idempotency: Idempotency) => Promise<unknown>): Promise<void> {
    const open = await openStore({ store: flags[1]! }, "administer");
    await work(new Idempotency({ store: open.store, sweep: false, cache: false })).finally(() =>
      open.close(),
    );
  }

  test("values, steps and failures of an application are shown by name", async () => {
    await applied(async (idempotency) => {
      await idempotency.run({ key: "value", scope: "a" }, () => ({ total: 10n }));
      const broken = idempotency.run(
        { key: "broken", scope: "a", onError: "hold" },
        async ({ step }) => {
          await step("reserve", () => "secret of the step");
          await step("charge", () => Promise.reject(new Error("timed out")), {
            keyRetention: "1h",
          });
        },
      );
      await broken.catch(() => {});
    });
    const { record, steps } = await api.record(url, "broken", "a");
    expect(record).toMatchObject({ state: "held", reason: "handler-failed: timed out" });
    expect(steps).toEqual([
      { name: "reserve", state: "done", attempt: 1 },
      { name: "charge", state: "begun", attempt: 1 },
    ]);
    expect((await api.record(url, "value", "a")).result).toEqual({ kind: "value" });
    const shown = await ask(url, "/-/api/result?key=value&scope=a");
    expect(shown.json).toEqual({ kind: "value", value: { total: "10" } });
    expect(JSON.stringify(await api.record(url, "broken", "a"))).not.toContain(
      "secret of the step",
    );
  });

  test("what is resolved with a value, the application's callers get", async () => {
    const body = { key: "broken", scope: "a", outcome: "applied", value: { charge: "ch_1" } };
    expect(await api.decide(url, "resolve", body)).toEqual({ done: true });
    await applied(async (idempotency) => {
      const outcome = await idempotency.run({ key: "broken", scope: "a" }, () => "ran again");
      expect(outcome).toMatchObject({ value: { charge: "ch_1" }, replayed: true });
    });
  });

  test("effects and durable operations: with their record, in a list, one whole, and decided about", async () => {
    await applied(async (idempotency) => {
      await idempotency.run({ key: "order", scope: "q" }, async ({ effect }) => {
        await effect("mail", { to: "ada@example.com" });
        for (let n = 0; n < 3; n++) await effect("sms", n, { key: `${n}` });
      });
      const fails = () => Promise.reject(new Error("no such mailbox"));
      const relay = idempotency.relay({ mail: { deliver: fails, attemptsMax: 1 } });
      await relay.drain();
      await relay.close();
      const ride = idempotency.operation("ride", { handler: () => "done" });
      await ride.start({ key: "ride-1", scope: "q", input: { to: "Moon" } });
    });
    const { queued, hasMoreQueued } = await api.record(url, "order", "q");
    expect(queued!.map(({ kind, name, place, state }) => [kind, name, place, state])).toEqual([
      ["effect", "mail", 0, "dead"],
      ["effect", "sms", 1, "waiting"],
      ["effect", "sms", 2, "waiting"],
      ["effect", "sms", 3, "waiting"],
    ]);
    expect(hasMoreQueued).toBe(false);
    const list = async (query: string) => (await ask(url, `/-/api/queue?${query}`)).json;
    const [dead] = (await list("state=dead")).items;
    expect(dead).toMatchObject({ name: "mail", error: "attempts-exhausted: no such mailbox" });
    const page = await list("name=sms&limit=2");
    expect(page.items).toHaveLength(2);
    const rest = await list(`name=sms&limit=2&cursor=${encodeURIComponent(page.cursor)}`);
    expect([rest.items.length, rest.cursor]).toEqual([1, null]);
    const [task] = (await list("kind=task")).items;
    expect(task).toMatchObject({ kind: "task", name: "ride", key: "ride-1", state: "waiting" });
    const input = (await ask(url, `/-/api/queued?id=${task.id}`)).json;
    expect(input.payload).toEqual({ value: { to: "Moon" } });

    const { kind, id } = dead;
    expect(await api.decide(url, "revive", { kind, id })).toEqual({ done: true });
    expect((await ask(url, `/-/api/queued?id=${id}`)).json).toMatchObject({
      item: { state: "waiting", attempts: 0 },
      payload: { value: { to: "ada@example.com" } },
    });
    expect(await api.decide(url, "remove", { kind, id })).toEqual({ done: true });
    expect(await api.decide(url, "remove", { kind, id })).toEqual({ done: false });
    expect((await ask(url, `/-/api/queued?id=${id}`)).status).toBe(404);
    await expect
      .poll(async () => (await api.overview(url)).census.queue?.states)
      .toEqual({
        task: { waiting: 1, done: 0, dead: 0 },
        effect: { waiting: 3, done: 0, dead: 0 },
      });
    for (const [path, body] of [
      ["/-/api/queue?kind=mail", undefined],
      ["/-/api/queue?state=lost", undefined],
      ["/-/api/queue?limit=201", undefined],
      ["/-/api/queued?id=1", undefined],
      ["/-/api/revive", { id }],
      ["/-/api/revive", { kind, id: "1" }],
      ["/-/api/remove", { kind: "mail", id }],
    ] as const) {
      expect([path, (await ask(url, path, { body })).status]).toEqual([path, 400]);
    }
  });

  test("what is encrypted is listed, and its content said to be unreadable", async () => {
    const open = await openStore({ store: flags[1]! }, "administer");
    const encryption = { keys: { a: Buffer.alloc(32, 1) }, current: "a" };
    const idempotency = new Idempotency({ store: open.store, encryption, sweep: false });
    await idempotency
      .run({ key: "sealed", scope: "q" }, ({ effect }) => effect("mail", "secret"))
      .finally(() => open.close());
    const { queued } = await api.record(url, "sealed", "q");
    const { text, json } = await ask(url, `/-/api/queued?id=${queued![0]!.id}`);
    expect(json.payload.unreadable).toMatch(/encrypted/);
    expect(text).not.toContain("secret");
  });

  test("the overview counts the store, and tells that nobody here runs anything", async () => {
    const { census } = await api.overview(url);
    expect(census.error).toBeNull();
    expect(census.stats!.states.completed).toBeGreaterThan(0);
    const session = (await ask(url, "/-/api/session")).json;
    expect(session.about).toEqual({
      version: expect.any(String),
      store: expect.stringMatching(/^postgres:\/\/[^@]*$/),
    });
  });
});
