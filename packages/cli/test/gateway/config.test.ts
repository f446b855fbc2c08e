// The configuration file (GW-1): what is wrong with one is told with its line and the nearest right name,
// and what is right takes effect, also while the gateway runs.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterEach, expect, test } from "vitest";
import { cleanUp, folder, gateway, later, MAIN, semel, started, upstream } from "../processes.ts";
import { message, rawConnection } from "../raw-http.ts";

afterEach(cleanUp);

const UPSTREAM = "upstream: http://127.0.0.1:9";

async function file(...lines: string[]): Promise<string> {
  const path = join(await folder(), "semel.yaml");
  await writeFile(path, lines.join("\n"));
  return path;
}

async function checked(...lines: string[]) {
  const path = await file(...lines);
  const { code, stdout, stderr } = await semel("gateway", "--config", path, "--check-config");
  return { code, stdout, stderr: stderr.replaceAll(path, "semel.yaml") };
}

const WRONG: Record<string, [lines: string[], says: string]> = {
  "a misspelt option": [
    [UPSTREAM, "routes:", "  - path: /pay", "    retension: 24h"],
    "semel.yaml:4:5: unknown option `retension` in `routes[0]`; did you mean `retention`?",
  ],
  "a misspelt option in the wrong place": [
    [UPSTREAM, "retension: 24h"],
    "semel.yaml:2:1: unknown option `retension`; did you mean `retention`, which belongs in `defaults`, or in one of `routes`?",
  ],
  "an option in the wrong place": [
    [UPSTREAM, "defaults:", "  probe: {}"],
    "semel.yaml:3:3: unknown option `probe` in `defaults`; it belongs in one of `routes`",
  ],
  "a value of another form": [
    [UPSTREAM, "defaults:", "  retention: 1 day"],
    'semel.yaml:3:14: `defaults.retention` must be a duration such as 250ms, 30s, 5m, 24h or 7d, or 0, not "1 day"',
  ],
  "a value that is out of bounds": [
    [UPSTREAM, "routes:", "  - path: /pay", "    lease: 1ms"],
    "semel.yaml:4:12: `routes[0].lease` must be between 10 ms",
  ],
  "a route without a path": [
    [UPSTREAM, "routes:", "  - required: true"],
    "semel.yaml:3:5: `routes[0]` lacks `path`",
  ],
  "a path that is none": [
    [UPSTREAM, "routes:", "  - path: [/pay, pay]"],
    "semel.yaml:3:18: `routes[0].path[1]`: Write a path such as",
  ],
  "a path that no request would fit": [
    [UPSTREAM, "routes:", "  - path: '/orders/:id:cancel'"],
    "semel.yaml:3:11: `routes[0].path`: A :part is all that is between two slashes",
  ],
  "a method whose keys cannot count": [
    [UPSTREAM, "routes:", "  - path: /pay", "    methods: [GET]"],
    'semel.yaml:4:14: `routes[0].methods` holds "GET"',
  ],
  "a method that there is not": [
    [UPSTREAM, "routes:", "  - path: /pay", "    methods: [POST, PSOT]"],
    'semel.yaml:4:21: `routes[0].methods[1]`: There is no method "PSOT"; did you mean POST?',
  ],
  "a probe that nobody asks for": [
    [UPSTREAM, "routes:", "  - path: /pay", "    probe: { get: /pay }"],
    "semel.yaml:4:12: `routes[0].probe`: it has no use without `onCrash: probe`",
  ],
  "a probe whose places are unknown": [
    [
      ...[UPSTREAM, "routes:", "  - path: /pay/:id", "    onCrash: probe"],
      "    probe: { get: '/pay/{path.ib}' }",
    ],
    "semel.yaml:5:19: `routes[0].probe.get`: Not every path of this route has a :ib.",
  ],
  "a probe that would ask too early": [
    [
      ...[UPSTREAM, "routes:", "  - path: /pay", "    onCrash: probe"],
      "    probe: { get: '/pay?key={key}' }",
    ],
    "`lease` (30000 ms) must be at least one and a half times `upstreamTimeout` (60000 ms)",
  ],
  "tokens without keys to verify them": [
    [UPSTREAM, "scope: jwt:sub"],
    "semel.yaml:2:8: `scope`: jwt:sub takes `jwt.jwks`",
  ],
  "a variable that there is not": [
    [UPSTREAM, `store: $\{SEMEL_TEST_NOWHERE}`],
    'semel.yaml:2:8: the environment has no variable "SEMEL_TEST_NOWHERE"',
  ],
  "an admin token that is easy to guess": [
    [UPSTREAM, "admin: { listen: 9090, token: short-s3cret }"],
    "semel.yaml:2:31: `admin.token`: the admin token must be at least 16 printable",
  ],
  "two admin tokens": [
    [UPSTREAM, "admin:", "  listen: 9090", `  token: ${"a".repeat(16)}`, "  tokenFile: /token"],
    "semel.yaml:5:14: `admin.tokenFile`: there is `token` already",
  ],
  "an admin listener without an address": [
    [UPSTREAM, "admin: { tokenFile: /token }"],
    "semel.yaml:2:8: `admin` lacks `listen`",
  ],
  "an admin listener that others reach, without a token": [
    [UPSTREAM, "admin: { listen: '0.0.0.0:9090' }"],
    "so it needs a token: SEMEL_ADMIN_TOKEN, --admin-token-file, or `admin.token` in --config",
  ],
  "no upstream": [["scope: shared"], "--upstream is required, or `upstream` in semel.yaml"],
  "nothing at all": [[""], "semel.yaml:1:1: it is empty"],
  "a list": [["- a"], "semel.yaml:1:1: the configuration must be options with their values"],
  "no YAML": [["upstream: [", "b"], "semel.yaml:"],
  "a name twice": [[UPSTREAM, UPSTREAM], "semel.yaml:2:1: Map keys must be unique"],
};

for (const [what, [lines, says]] of Object.entries(WRONG)) {
  test(`${what} is told with its place, and ends with 2`, async () => {
    const { code, stdout, stderr } = await checked(...lines);
    expect(stderr).toContain(says);
    expect(stderr).not.toMatch(/\n\s+at /);
    expect([code, stdout]).toEqual([2, ""]);
  });
}

test("everything that is wrong is told at once, and no secret is repeated", async () => {
  const secret = "postgres://me:s3cret@h/d";
  const { stderr } = await checked(UPSTREAM, `store: [${secret}]`, "mode: dry", "lisen: 1");
  expect(stderr.trim().split("\n")).toHaveLength(3);
  expect(stderr).not.toContain("s3cret");
  const addresses = await checked(
    ...["upstream: https://me:s3cret@h", "jwt: { jwks: 'https://me:s3cret@h/' }"],
    "scope: auth-request:https://me:s3cret@h/",
  );
  expect(addresses.stderr.match(/holds a user or a password/g)).toHaveLength(3);
  const misshapen = await checked(
    ...["upstream: [https://me:s3cret@h]", "jwt: { jwks: 'me:s3cret@h' }", "mode: me:s3cret@h"],
  );
  expect(addresses.stderr + misshapen.stderr).not.toContain("s3cret");
  const expanded = await checked(UPSTREAM, "table: 1", `store: "${secret}"`);
  expect(expanded.stderr).not.toContain("s3cret");
});

test("a right one is said to be right, with what should be known of it", async () => {
  const path = await file(
    ...[UPSTREAM, "scope: jwt:sub", "jwt: { jwks: 'http://127.0.0.1:9/jwks' }", "routes:"],
    ...["  - path: /pay*", "  - path: /pay/:id"],
  );
  const { code, stdout } = await semel("gateway", "--config", path, "--check-config", "--json");
  const said = stdout
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as { event: string; message: string });
  expect(code).toBe(0);
  expect(said.map(({ event }) => event)).toEqual(["warning", "warning", "config-valid"]);
  expect(said[0]!.message).toContain("jwt.audience");
  expect(said[1]!.message).toContain("`routes[1]` is never reached");
});

test("it ends as well where nobody reads what it says", async () => {
  // More than a line, so that some are still to be written at the end.
  const path = await file(UPSTREAM, "scope: jwt:sub", "jwt: { jwks: 'http://127.0.0.1:9/jwks' }");
  const flags = ["gateway", "--config", path, "--check-config", "--json"];
  const child = spawn(process.execPath, [MAIN, ...flags], { stdio: ["ignore", "pipe", "ignore"] });
  later(() => child.kill("SIGKILL"));
  child.stdout.destroy();
  expect(await once(child, "exit")).toEqual([0, null]);
});

/** Posts, and says how it was answered. */
async function post(url: string, path: string, key: string, method = "POST") {
  const headers = { authorization: "x", ...(key && { "idempotency-key": key }) };
  const answer = await fetch(url + path, { method, headers, body: "{}" });
  return `${answer.status} ${answer.headers.get("idempotency-status")}`;
}

const counting = async () => {
  const calls: string[] = [];
  const behind = await upstream((request, response) => {
    request.resume().on("end", () => {
      calls.push(`${request.method} ${request.url}`);
      response.writeHead(request.url?.includes("broken") ? 500 : 201, { "x-cost": "1" });
      response.end(`charge ${calls.length}`);
    });
  });
  return { ...behind, calls };
};

test("a request is its first route's by path and method, however its path is spelt", async () => {
  const behind = await counting();
  const path = await file(
    `upstream: ${behind.url}`,
    "defaults: { required: false }",
    "routes:",
    "  - { path: /payments, methods: [POST], required: true }",
    "  - { path: [/orders/:id, /carts/*], methods: [PUT], onError: store }",
    "  - { path: /hooks*, ignoreKeys: true }",
  );
  const { url } = await gateway(behind.url, "--config", path);
  for (const spelt of ["/payments", "/%70ayments/", "//payments?a=1", "/x/../Payments;v=1"]) {
    const { port } = new URL(url);
    const client = await rawConnection(Number(port));
    const head = [`POST ${spelt} HTTP/1.1`, "Host: a", "Authorization: x", "Content-Length: 0"];
    client.write(message(...head, "Connection: close"));
    expect(await client.closed(), spelt).toContain("key-missing");
  }
  expect(behind.calls).toEqual([]);
  expect(await post(url, "/payments/1", "")).toBe("201 null");
  expect(await post(url, "/payments", "k", "PUT")).toBe("201 null");
  expect(await post(url, "/orders/1", "broken", "PUT")).toBe("201 executed");
  expect(await post(url, "/carts/broken/2", "k", "PUT")).toBe("500 executed");
  expect(await post(url, "/carts/broken/2", "k", "PUT")).toBe("500 replayed");
  expect(await post(url, "/hooks/stripe", "h")).toBe("201 null");
  expect(await post(url, "/hooks/stripe", "h")).toBe("201 null");
  expect(await post(url, "/other", "other")).toBe("201 executed");
});

test("methods count however they are written: no case of letters switches keys off", async () => {
  const behind = await counting();
  const path = await file(
    `upstream: ${behind.url}`,
    "defaults: { methods: [patch] }",
    "routes:",
    "  - { path: /payments, methods: [post, Put], required: true }",
  );
  const { url } = await gateway(behind.url, "--config", path);
  for (const method of ["POST", "PUT"]) {
    expect(await post(url, "/payments", "", method)).toBe("400 null");
    expect(await post(url, "/payments", method, method)).toBe("201 executed");
    expect(await post(url, "/payments", method, method)).toBe("201 replayed");
  }
  expect(await post(url, "/other", "other", "PATCH")).toBe("201 executed");
  const flags = await gateway(behind.url, "--methods", "post, Delete");
  for (const method of ["POST", "DELETE"]) {
    expect(await post(flags.url, "/", method, method)).toBe("201 executed");
  }
});

test("flags come before the file, and the file before the defaults", async () => {
  const behind = await counting();
  const path = await file(
    "upstream: http://127.0.0.1:1",
    "listen: 127.0.0.1:1",
    "scope: shared",
    "defaults: { methods: [PUT] }",
  );
  const { url } = await gateway(behind.url, "--config", path);
  expect(await post(url, "/", "k", "POST")).toBe("201 null");
  expect(await post(url, "/", "k", "PUT")).toBe("201 executed");
  const other = await fetch(url, {
    method: "PUT",
    headers: { authorization: "y", "idempotency-key": "k" },
    body: "{}",
  });
  expect(other.headers.get("idempotent-replayed"), "scope is the file's").toBe("true");
});

test("the headers of answers are stored and left out as a route says", async () => {
  let run = 0;
  const behind = await upstream((_request, response) => {
    response.setHeader("access-control-allow-origin", "https://shop.test");
    response.writeHead(201, { location: "/1", "x-cost": "7", "set-cookie": "a=1" });
    response.end(`run ${++run}`);
  });
  const path = await file(
    `upstream: ${behind.url}`,
    "routes:",
    "  - path: /all",
    "    storedHeaders: { allow: [X-Cost], deny: [Location], cors: true }",
  );
  const { url } = await gateway(behind.url, "--config", path);
  const replay = async (at: string) => {
    const init = { method: "POST", headers: { authorization: "x", "idempotency-key": "k" } };
    await (await fetch(url + at, init)).text();
    return fetch(url + at, { ...init, headers: { ...init.headers } });
  };
  const chosen = await replay("/all");
  expect(chosen.headers.get("idempotent-replayed")).toBe("true");
  expect(chosen.headers.get("access-control-allow-origin")).toBe("https://shop.test");
  expect([chosen.headers.get("x-cost"), chosen.headers.get("location")]).toEqual(["7", null]);
  expect(chosen.headers.get("set-cookie")).toBe(null);
});

test("SIGHUP reads it anew; a broken one is told, and what was serves on", async () => {
  const behind = await counting();
  const path = await file(`upstream: ${behind.url}`, "listen: 127.0.0.1:0");
  const front = await gateway(behind.url, "--config", path);
  expect(await post(front.url, "/", "")).toBe("201 null");

  await writeFile(
    path,
    `upstream: ${behind.url}\ndefaults: { required: true }\nstore: "sqlite:x"\n`,
  );
  front.child.kill("SIGHUP");
  await front.logged(({ event }) => event === "reloaded");
  expect(await post(front.url, "/", "")).toBe("400 null");

  await writeFile(path, `upstream: ${behind.url}\nretension: 1h\n`);
  front.child.kill("SIGHUP");
  const { reason } = await front.logged(({ event }) => event === "reload-failed");
  expect(reason).toContain("did you mean `retention`");
  expect(await post(front.url, "/", "")).toBe("400 null");
  expect(await front.end("SIGTERM")).toBe(0);
});

test("the admin listener can be configured there, with its token from a variable or a file", async () => {
  const behind = await counting();
  const token = "0123456789abcdef";
  const admin = (rest: string) => [
    ...[`upstream: ${behind.url}`, "listen: 127.0.0.1:0", "admin:", "  listen: 127.0.0.1:0"],
    rest,
  ];
  const path = await file(...admin(`  token: $\{SEMEL_TEST_TOKEN}`));
  const given = { SEMEL_TEST_TOKEN: token };
  const front = await started(["gateway", "--config", path, "--json", "--store", "memory:"], given);
  const { address } = await front.logged(({ event }) => event === "admin");
  const status = async (at: string, bearer: string) =>
    (await fetch(`${at}/-/metrics`, { headers: { authorization: `Bearer ${bearer}` } })).status;
  expect(await status(address!, token)).toBe(200);
  expect(await status(address!, "fedcba9876543210")).toBe(401);

  await writeFile(path, admin(`  token: ${token}-another`).join("\n"));
  front.child.kill("SIGHUP");
  const { unchanged } = await front.logged(({ event }) => event === "reloaded");
  expect(unchanged).toEqual(["admin.token"]);
  expect(await status(address!, token)).toBe(200);
  expect(JSON.stringify(front.log)).not.toContain(token);
  expect(await front.end("SIGTERM")).toBe(0);

  const secret = join(await folder(), "token");
  await writeFile(secret, "from-a-file-0123456789\n");
  const other = await file(...admin(`  tokenFile: ${secret}`));
  const again = await gateway(behind.url, "--config", other);
  const { address: at } = await again.logged(({ event }) => event === "admin");
  expect(await status(at!, "from-a-file-0123456789")).toBe(200);
  // A flag wins over the file's token, whichever way it is given.
  await writeFile(path, admin(`  token: ${token}`).join("\n"));
  const third = await gateway(behind.url, "--config", path, "--admin-token-file", secret);
  const { address: there } = await third.logged(({ event }) => event === "admin");
  expect([await status(there!, "from-a-file-0123456789"), await status(there!, token)]).toEqual([
    200, 401,
  ]);
});

test("a reload drops no request, and those that run end as they began", async () => {
  const behind = await counting();
  const path = await file(`upstream: ${behind.url}`);
  const front = await gateway(behind.url, "--config", path);
  let isOver = false;
  const answers: string[] = [];
  const callers = Array.from({ length: 8 }, async (_, caller) => {
    for (let i = 0; !isOver; i++) answers.push(await post(front.url, "/", `${caller}-${i}`));
  });
  for (let n = 1; n <= 5; n++) {
    await writeFile(path, `upstream: ${behind.url}\ndefaults: { retention: ${n}h }\n`);
    front.child.kill("SIGHUP");
    const reloads = () => front.log.filter(({ event }) => event === "reloaded").length;
    while (reloads() < n) await new Promise((resolve) => setTimeout(resolve, 20));
  }
  isOver = true;
  await Promise.all(callers);
  expect(new Set(answers)).toEqual(new Set(["201 executed"]));
  expect(behind.calls).toHaveLength(answers.length);
});

test("every option of the schema is in the reference of docs/gateway.md, with its default", () => {
  const root = join(import.meta.dirname, "../../../..");
  const schema = JSON.parse(
    readFileSync(join(root, "packages/cli/schema/semel.schema.json"), "utf8"),
  );
  const page = readFileSync(join(root, "docs/gateway.md"), "utf8");
  interface Option {
    $ref?: string;
    default?: unknown;
    properties?: Record<string, Option>;
  }
  const resolved = (option: Option): Option =>
    option.$ref
      ? { ...resolved(schema.definitions[option.$ref.split("/").at(-1)!]), ...option }
      : option;
  const walk = (properties: Record<string, Option>, path: string): void => {
    for (const [name, option] of Object.entries(properties)) {
      const { properties: inner, default: preset } = resolved(option);
      const where = `${path}${name}`;
      if (inner && !["defaults", "fingerprint"].includes(name)) walk(inner, `${where}.`);
      else {
        const row = page.split("\n").find((line) => line.startsWith(`| \`${where}\``));
        expect(row, where).toBeDefined();
        if (typeof preset === "string") expect(row, where).toContain(`\`${preset}\``);
      }
    }
  };
  const { routes: _routes, defaults: _defaults, ...top } = schema.properties;
  walk(top, "");
  walk(schema.definitions.route.properties, "routes[].");
});
