// What is shipped, as a user gets it: both packages packed, installed into an empty folder, and
// `npx semel gateway` run there, with its dashboard.

import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import { cleanUp, later, upstream } from "./processes.ts";

const ROOT = join(import.meta.dirname, "../../..");

let folder: string;

function run(command: string, args: string[], cwd: string): string {
  return execFileSync(command, args, { cwd, encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });
}

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "semel-cli-tarball-"));
  for (const name of ["semel", "cli"]) {
    const cwd = join(ROOT, "packages", name);
    run("npm", ["pack", "--silent", "--pack-destination", folder], cwd);
  }
  writeFileSync(join(folder, "package.json"), '{ "private": true }');
  const tarballs = tarballNames().map((name) => `./${name}`);
  run("npm", ["install", "--silent", "--no-audit", "--no-fund", ...tarballs], folder);
}, 300_000);

afterEach(cleanUp);
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function tarballNames(): string[] {
  return readdirSync(folder).filter((name) => name.endsWith(".tgz"));
}

test("npx semel gateway serves requests, and its dashboard, from an empty folder", async () => {
  const behind = await upstream((_request, response) => response.end("paid"));
  const child = spawn(
    "npx",
    [
      ...["--no-install", "semel", "gateway", "--upstream", behind.url, "--json"],
      ...["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--scope", "shared"],
    ],
    // A group of its own: npx does not pass on every signal.
    { cwd: folder, stdio: ["ignore", "pipe", "inherit"], detached: true },
  );
  later(() => {
    if (child.exitCode === null) process.kill(-child.pid!, "SIGKILL");
  });
  const addresses: Record<string, string> = {};
  for await (const line of createInterface(child.stdout)) {
    const { event, address } = JSON.parse(line);
    addresses[event] = address;
    if (event === "listening") break;
  }
  const pay = async () => {
    const headers = { "idempotency-key": "k" };
    const response = await fetch(addresses["listening"]!, { method: "POST", headers });
    return [await response.text(), response.headers.get("idempotency-status")];
  };
  expect(await pay()).toEqual(["paid", "executed"]);
  expect(await pay()).toEqual(["paid", "replayed"]);
  const admin = addresses["admin"]!;
  const page = await (await fetch(admin)).text();
  const assets = [...page.matchAll(/(?:src|href)="\.\/([^"]+)"/g)].map(([, path]) => path!);
  expect(assets.length).toBeGreaterThanOrEqual(4);
  for (const path of assets) expect((await fetch(`${admin}/${path}`)).status, path).toBe(200);
  expect(await (await fetch(`${admin}/-/metrics`)).text()).toContain("semel_operations_total");
  const exited = once(child, "exit");
  process.kill(-child.pid!, "SIGTERM");
  await exited;
  expect(readdirSync(folder)).toContain("semel.db");
});

test("the tarball holds what is built and nothing else, and needs no script to install", () => {
  const name = tarballNames().find((one) => one.startsWith("semel-cli"))!;
  const names = run("tar", ["tzf", name], folder).trim().split("\n");
  const allowed = /^package\/(dist\/|schema\/|package\.json|README\.md|LICENSE)/;
  expect(names.filter((one) => !allowed.test(one) || one.includes("tsbuildinfo"))).toEqual([]);
  expect(names).toContain("package/dist/dashboard/index.html");
  const manifest = JSON.parse(
    readFileSync(join(folder, "node_modules/@semel/cli/package.json"), "utf8"),
  );
  expect(Object.keys(manifest.scripts ?? {})).toEqual([]);
});
