// What is deployed: the files are well-formed, say nothing that the command does not know, and ask for no
// metric that is not there. No Docker engine and no cluster is needed, and none was asked.

import { execFileSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeAll, describe, expect, test } from "vitest";
import { type Document, parseAllDocuments } from "yaml";
import { administered, ask, SCOPE } from "./admin/administering.ts";
import { type Family, parseMetrics } from "./admin/prometheus.ts";
import { cleanUp, semel } from "./processes.ts";

afterEach(cleanUp);

const ROOT = join(import.meta.dirname, "../../..");
const DEPLOY = join(ROOT, "deploy");
const files = readdirSync(DEPLOY, { recursive: true, encoding: "utf8" });
const read = (path: string) => readFileSync(join(DEPLOY, path), "utf8");

// biome-ignore lint/suspicious/noExplicitAny: what a file holds is for each test to say
type Any = any;

function documents(path: string): Any[] {
  const parsed = parseAllDocuments(read(path), { merge: true, uniqueKeys: true }) as Document[];
  expect(
    parsed.flatMap(({ errors, warnings }) => [...errors, ...warnings]),
    path,
  ).toEqual([]);
  return parsed.map((document) => document.toJS());
}

test("every YAML file parses, and every variable in any file is one that the command reads", async () => {
  const yaml = files.filter((path) => /\.ya?ml$/.test(path));
  expect(yaml.length).toBeGreaterThanOrEqual(4);
  for (const path of yaml) expect(documents(path).length).toBeGreaterThan(0);

  const { stdout } = await semel("gateway", "--help");
  const known = new Set(stdout.replace(/\s+/g, " ").match(/SEMEL_[A-Z_]+/g));
  for (const path of files.filter((name) => /\.\w+$|Dockerfile$/.test(name))) {
    for (const variable of read(path).match(/SEMEL_[A-Z_]+/g) ?? []) {
      expect(known.has(variable), `${path}: ${variable}`).toBe(true);
    }
  }
});

describe("the image", () => {
  const instructions = read("Dockerfile")
    .replaceAll(/^#.*\n/gm, "")
    .replaceAll(/\\\n/g, " ")
    .split("\n")
    .filter((line) => line.trim() !== "")
    .map((line) => {
      const [, name, rest] = /^([A-Z]+)\s+(.*)$/.exec(line) ?? [];
      return { name: name!, rest: rest! };
    });
  const last = instructions.slice(instructions.findLastIndex(({ name }) => name === "FROM"));
  const find = (name: string) => last.find((one) => one.name === name)?.rest;

  test("is made of instructions that there are, from named versions", () => {
    const known =
      /^(FROM|WORKDIR|COPY|RUN|ENV|USER|VOLUME|EXPOSE|HEALTHCHECK|STOPSIGNAL|ENTRYPOINT|CMD)$/;
    for (const { name, rest } of instructions) expect(name, rest).toMatch(known);
    for (const { rest } of instructions.filter(({ name }) => name === "FROM")) {
      expect(rest).toMatch(/^node:\d+-/);
    }
  });

  test("runs as nobody special, without a shell between it and its signals, and is asked for its health", () => {
    expect(find("USER")).toBe("node");
    expect(JSON.parse(find("ENTRYPOINT")!)).toEqual(["semel"]);
    expect(JSON.parse(find("CMD")!)).toEqual(["gateway"]);
    const health = /CMD (\[.*\])$/.exec(find("HEALTHCHECK")!)![1]!;
    const [node, flag, script] = JSON.parse(health);
    expect([node, flag]).toEqual(["node", "-e"]);
    execFileSync(process.execPath, ["--check", "--input-type=commonjs", "-"], { input: script });
    expect(read("Dockerfile")).not.toMatch(/TOKEN|PASSWORD|SECRET/);
  });
});

test("compose: what a service needs is there, and nothing secret has a default", () => {
  const [{ services, volumes }] = documents("compose.yaml");
  for (const [name, service] of Object.entries<Any>(services)) {
    for (const needed of Object.keys(service.depends_on ?? {})) {
      expect(Object.keys(services), name).toContain(needed);
    }
    if (service.build) {
      expect(existsSync(join(DEPLOY, service.build.context, service.build.dockerfile))).toBe(true);
    }
    for (const mount of service.volumes ?? []) {
      const [source] = mount.split(":");
      const isThere = source.startsWith(".") ? existsSync(join(DEPLOY, source)) : source in volumes;
      expect(isThere, mount).toBe(true);
    }
    for (const port of service.ports ?? []) expect(port).toMatch(/^127\.0\.0\.1:/);
  }
  const text = read("compose.yaml");
  expect(text.match(/\$\{(?:SEMEL_ADMIN_TOKEN|POSTGRES_PASSWORD)(?!:\?)/g)).toBeNull();
  expect(services["gateway-1"].environment).toEqual(services["gateway-2"].environment);
});

test("Kubernetes: probes and ports match, the drain fits into the grace", () => {
  const all = documents("kubernetes/sidecar.yaml");
  const pod = all.find(({ kind }) => kind === "Deployment").spec.template.spec;
  const gateway = pod.containers.find(({ name }: Any) => name === "semel");
  const ports = gateway.ports.map(({ name }: Any) => name);
  const env = Object.fromEntries(gateway.env.map(({ name, value }: Any) => [name, value]));
  expect(gateway.livenessProbe.httpGet).toEqual({ path: "/-/healthz", port: "http" });
  expect(gateway.readinessProbe.httpGet).toEqual({ path: "/-/readyz", port: "http" });
  expect(ports).toEqual(["http", "admin"]);
  const drainSeconds = Number.parseInt(env["SEMEL_DRAIN"], 10);
  expect(pod.terminationGracePeriodSeconds).toBeGreaterThan(drainSeconds + 5);
  expect(gateway.securityContext).toMatchObject({
    runAsNonRoot: true,
    readOnlyRootFilesystem: true,
  });
  const service = all.find(({ kind }) => kind === "Service");
  expect(ports).toContain(service.spec.ports[0].targetPort);
});

test("systemd: sections and assignments only, with the time to drain", () => {
  const lines = read("systemd/semel.service").split("\n");
  for (const line of lines) expect(line).toMatch(/^(?:#.*|\[\w+\]|[A-Z]\w+=.+|)$/);
  const sections = lines.filter((line) => line.startsWith("["));
  expect(sections).toEqual(["[Unit]", "[Service]", "[Install]"]);
  expect(lines).toContain("ExecStart=/usr/bin/env semel gateway");
  expect(lines).toContain("TimeoutStopSec=15s");
});

describe("what is charted and alerted on", () => {
  let families: Map<string, Family>;
  beforeAll(async () => {
    const { url, pay } = await administered();
    for (const path of ["/pay", "/pay", "/fails", "/broken"]) await pay(`k${path}`, path);
    await ask(url, "/-/api/void", { body: { key: "v", scope: SCOPE } });
    families = parseMetrics((await ask(url, "/-/metrics")).text);
  });

  /** Metrics of an expression, with the labels that are asked of them. */
  function asked(expression: string) {
    return [...expression.matchAll(/\b((?:semel|process)_\w+)(?:\{([^}]*)\})?/g)].map(
      ([, name, labels = ""]) => ({
        name: name!,
        labels: [...labels.matchAll(/(\w+)\s*(?:=~|!~|!=|=)/g)].map(([, label]) => label!),
      }),
    );
  }

  function assertThere(where: string, expression: string): void {
    const metrics = asked(expression);
    expect(metrics.length, `${where}: ${expression}`).toBeGreaterThan(0);
    for (const { name, labels } of metrics) {
      const family = families.get(name) ?? families.get(name.replace(/_(?:bucket|sum|count)$/, ""));
      expect(family, `${where}: ${name}`).toBeDefined();
      // Prometheus itself adds the instance. What has no sample yet says nothing of its labels.
      const has = new Set([
        "instance",
        ...family!.samples.flatMap((one) => Object.keys(one.labels)),
      ]);
      if (family!.samples.length > 0) {
        for (const label of labels) expect(has, `${where}: ${name}`).toContain(label);
      }
    }
    expect(expression.split("(").length, expression).toBe(expression.split(")").length);
  }

  test("every panel of the Grafana dashboard asks for what is there", () => {
    const { panels, templating } = JSON.parse(read("grafana/semel.json"));
    expect(panels.length).toBeGreaterThan(10);
    expect(new Set(panels.map(({ id }: Any) => id)).size).toBe(panels.length);
    for (const { title, targets } of panels) {
      for (const { expr } of targets) assertThere(title, expr);
    }
    assertThere("variable", templating.list.find(({ type }: Any) => type === "query").query);
  });

  test("every alert asks for what is there, and leads to a section of the runbooks", () => {
    const [{ groups }] = documents("prometheus/rules.yaml");
    const headings = readFileSync(join(ROOT, "docs/operations.md"), "utf8").match(/^#+ .*$/gm)!;
    const anchors = headings.map((heading) =>
      heading
        .replace(/^#+ /, "")
        .toLowerCase()
        .replaceAll(/[^\w -]/g, "")
        .replaceAll(" ", "-"),
    );
    for (const { rules } of groups) {
      for (const { alert, expr, annotations, labels } of rules) {
        assertThere(alert, expr);
        expect(["page", "ticket"]).toContain(labels.severity);
        const [page, anchor] = annotations.runbook.split("#");
        expect(page).toBe("docs/operations.md");
        expect(anchors, alert).toContain(anchor);
      }
    }
  });

  test("a metric that is not there would be found out", () => {
    expect(() => assertThere("test", "rate(semel_no_such_total[5m])")).toThrow();
    expect(() => assertThere("test", 'semel_records{colour="red"}')).toThrow();
  });
});
