// `/-/metrics`, scraped from a real gateway and parsed as strictly as Prometheus does (GW-5, OB-1).

import { join } from "node:path";
import { Idempotency } from "semel";
import { afterEach, expect, test } from "vitest";
import { openStore } from "../../src/stores/open.ts";
import { cleanUp, folder, started } from "../processes.ts";
import { administered, adminUrl, ask, SCOPE } from "./administering.ts";
import { parseMetrics, sampleOf } from "./prometheus.ts";

afterEach(cleanUp);

const LISTEN = ["--listen", "127.0.0.1:0"];

async function scraped(url: string) {
  const { status, headers, text } = await ask(url, "/-/metrics");
  expect(status).toBe(200);
  expect(headers.get("content-type")).toMatch(/^text\/plain; version=0\.0\.4/);
  return { text, families: parseMetrics(text) };
}

test("operations, requests, the upstream and the store are counted", async () => {
  const { url, process, pay } = await administered();
  await pay("secret-key");
  await pay("secret-key");
  await pay("secret-key");
  await pay("secret-key", "/pay", '{"other":true}');
  await pay("b", "/fails");
  await pay("c", "/broken");
  await fetch(`${process.url}/plain`, { method: "POST" });
  await ask(url, "/-/api/void", { body: { key: "never", scope: SCOPE } });
  const { text, families } = await scraped(url);
  const value = (name: string, labels = {}) => sampleOf(families, name, labels);
  for (const [outcome, count] of Object.entries({
    executed: 1,
    replayed: 2,
    mismatch: 1,
    released: 1,
    held: 1,
    failed: 0,
  })) {
    expect(value("semel_operations_total", { outcome }), outcome).toBe(count);
  }
  expect(value("semel_operation_duration_seconds_count", { outcome: "replayed" })).toBe(2);
  expect(
    value("semel_operation_duration_seconds_bucket", { outcome: "executed", le: "+Inf" }),
  ).toBe(1);
  expect(value("semel_operations_active")).toBe(0);
  expect(value("semel_gateway_requests_total", { status: "2xx", keyed: "yes" })).toBe(3);
  expect(value("semel_gateway_requests_total", { status: "2xx", keyed: "no" })).toBe(1);
  expect(value("semel_gateway_requests_total", { status: "5xx", keyed: "yes" })).toBe(2);
  expect(value("semel_gateway_upstream_failures_total")).toBe(1);
  expect(value("semel_records", { state: "completed" })).toBe(1);
  expect(value("semel_records", { state: "held" })).toBe(1);
  expect(value("semel_records", { state: "void" })).toBe(1);
  expect(value("semel_held_oldest_seconds")).toBeGreaterThan(0);
  expect(value("semel_store_size_bytes")).toBeGreaterThan(0);
  expect(value("semel_store_up")).toBe(1);
  expect(value("semel_decisions_total", { decision: "void" })).toBe(1);
  expect(value("process_resident_memory_bytes")).toBeGreaterThan(0);
  for (const { name, type, help } of families.values()) {
    expect([name, type, help]).toEqual([
      name,
      expect.stringMatching(/^(counter|gauge|histogram|summary)$/),
      expect.stringMatching(/./),
    ]);
  }
  expect(text).not.toMatch(/secret-key|acme/);
});

test("what is queued in a store is counted, by a dashboard beside its application", async () => {
  const path = join(await folder(), "semel.db");
  const open = await openStore({ store: `sqlite:${path}` }, "migrate");
  await open.migrate();
  const idempotency = new Idempotency({ store: open.store, sweep: false });
  await idempotency.run({ key: "order" }, async ({ effect }) => {
    for (const name of ["mail", "sms", "push"]) await effect(name);
  });
  const fails = () => Promise.reject(new Error("no"));
  const relay = idempotency.relay({ mail: { deliver: fails, attemptsMax: 1 } });
  await relay.drain();
  await relay.close();
  const process = await started(["dashboard", "--store", `sqlite:${path}`, ...LISTEN, "--json"]);
  const { families } = await scraped(adminUrl(process));
  const value = (name: string, labels: Record<string, string>) => sampleOf(families, name, labels);
  expect(value("semel_queue_items", { kind: "effect", state: "waiting" })).toBe(2);
  expect(value("semel_queue_items", { kind: "effect", state: "dead" })).toBe(1);
  expect(value("semel_queue_items", { kind: "task", state: "waiting" })).toBe(0);
  expect(value("semel_queue_oldest_due_seconds", { kind: "effect" })).toBeGreaterThan(0);
  expect(value("semel_queue_oldest_due_seconds", { kind: "task" })).toBe(0);
  await idempotency.close();
  await open.close();
});

test("labels are few, however many keys there are", async () => {
  const { url, pay } = await administered();
  await pay("first");
  const series = async () => (await scraped(url)).text.match(/^semel_/gm)?.length;
  const before = await series();
  for (let n = 0; n < 30; n++) await pay(`key-${n}`);
  expect(await series()).toBe(before);
  expect(before).toBeLessThan(150);
});

test("looking at records is not counted as replaying them", async () => {
  const { url, pay } = await administered();
  await pay("k");
  const query = new URLSearchParams({ key: "k", scope: SCOPE });
  await ask(url, `/-/api/record?${query}`);
  await ask(url, `/-/api/result?${query}`);
  const { families } = await scraped(url);
  expect(sampleOf(families, "semel_operations_total", { outcome: "replayed" })).toBe(0);
});

test("what Prometheus would refuse, this reader refuses", () => {
  for (const text of [
    "a 1\n",
    "# TYPE a counter\na 1",
    "# TYPE a counter\na one\n",
    "# TYPE a counter\na{b=1} 1\n",
    '# TYPE a counter\na{b="1} 1\n',
    "# TYPE a counter\n# TYPE a counter\na 1\n",
  ]) {
    expect(() => parseMetrics(text), text).toThrow();
  }
});
