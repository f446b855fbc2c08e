// The client in a real browser (CL-3, CL-4): the example's page pays, is reloaded in the middle, and is
// opened twice.

import { spawn } from "node:child_process";
import { once } from "node:events";
import type { Server } from "node:http";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import type { Browser, BrowserContext, Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { chromiumMissing, launchChromium } from "./chromium.ts";
import { gate } from "./fixture.ts";

/** What {@link loadClient} puts into the page, for functions that run there. */
declare const createClient: typeof import("../../src/client/index.ts").createClient;
declare const document: { baseURI: string };

async function loadClient(page: Page): Promise<void> {
  const content = `
    import { createClient } from "/semel/client/index.js";
    globalThis.createClient = createClient;
  `;
  await page.addScriptTag({ type: "module", content });
  await page.waitForFunction("globalThis.createClient");
}

interface Shop {
  server: Server;
  payments: { payment: number; order: string; key: string }[];
}

const SERVER = fileURLToPath(
  new URL("../../../../examples/browser-payment/server.mjs", import.meta.url),
);
const EXAMPLE = new URL("../../../../examples/browser-payment/app.mjs", import.meta.url).href;
const missing = chromiumMissing();

describe.skipIf(missing !== undefined)(
  `in Chromium${missing ? ` (skipped: ${missing})` : ""}`,
  () => {
    let browser: Browser;
    let shop: (options?: { beforeAnswer: () => Promise<unknown> }) => Shop;

    beforeAll(async () => {
      ({ shop } = (await import(/* @vite-ignore */ EXAMPLE)) as { shop: typeof shop });
      browser = await launchChromium();
    });
    afterAll(() => browser.close());

    /** The example's shop and a browser profile; `held` payments are answered when told. */
    async function open(beforeAnswer = async () => {}) {
      const { server, payments } = shop({ beforeAnswer });
      server.listen(0, "127.0.0.1");
      await once(server, "listening");
      const { port } = server.address() as { port: number };
      const context: BrowserContext = await browser.newContext();
      const failures: string[] = [];
      const openPage = async (query = "?order=7"): Promise<Page> => {
        const page = await context.newPage();
        page.on("pageerror", (error) => failures.push(String(error)));
        await page.goto(`http://127.0.0.1:${port}/${query}`);
        return page;
      };
      onTestFinished(async () => {
        await context.close();
        server.closeAllConnections();
        server.close();
        expect(failures).toEqual([]);
      });
      return { payments, openPage, context };
    }

    const pay = (page: Page) => page.click("#pay");
    const outcome = (page: Page) => page.textContent("#outcome");
    const paid = (page: Page) => page.waitForSelector("#outcome:text('Paid')");

    test("a page pays, and pays again only for the next order", async () => {
      const { payments, openPage } = await open();
      const page = await openPage();
      await pay(page);
      await paid(page);
      expect(await outcome(page)).toBe("Paid (payment 1)");
      await page.reload();
      await paid(page);
      expect(await outcome(page)).toBe("Paid (payment 1)");
      await page.click("#next");
      await page.waitForURL(/order=8/);
      expect(await page.evaluate("localStorage.length")).toBe(0);
      await pay(page);
      await paid(page);
      expect(payments.map(({ order }) => order)).toEqual(["7", "8"]);
    });

    test("a page that is reloaded while the server holds the answer pays once, and shows the answer", async () => {
      const held = gate();
      const { payments, openPage } = await open(() => held.opened);
      const page = await openPage();
      await pay(page);
      await expect.poll(() => payments).toHaveLength(1);
      await page.reload();
      // The new page goes on by itself, and is told that the first attempt still runs.
      await page.waitForSelector("#events :text('answer 1 409')");
      held.open();
      await paid(page);
      expect(await outcome(page)).toBe("Paid (payment 1)");
      expect(payments).toHaveLength(1);
    });

    test("two tabs that pay the same order at once make one payment, and show the same answer", async () => {
      const held = gate();
      const { payments, openPage, context } = await open(() => held.opened);
      const keys = new Set<string | undefined>();
      context.on("request", (request) => {
        if (request.method() === "POST") keys.add(request.headers()["idempotency-key"]);
      });
      const tabs = await Promise.all([openPage(), openPage()]);
      await Promise.all(tabs.map(pay));
      await expect.poll(() => payments).toHaveLength(1);
      held.open();
      for (const tab of tabs) {
        await paid(tab);
        expect(await outcome(tab)).toBe("Paid (payment 1)");
      }
      expect(payments).toHaveLength(1);
      expect([...keys]).toEqual([`"${payments[0]?.key}"`]);
    });

    test("bodies of every kind are sent with the same bytes by every attempt", async () => {
      const { openPage, context } = await open();
      const page = await openPage();
      await loadClient(page);
      const seen: string[] = [];
      let failures = 0;
      await context.route("**/echo", async (route) => {
        seen.push(route.request().postDataBuffer()?.toString("latin1") ?? "");
        if (failures++ % 2 === 0) await route.abort();
        else await route.fulfill({ status: 200, body: "ok" });
      });
      const answers = await page.evaluate(async () => {
        const client = createClient({ retry: { base: 1, cap: 1 } });
        const form = new FormData();
        form.set("amount", "1200");
        const url = new URL("/echo", document.baseURI).href;
        const bodies: RequestInit[] = [
          { body: "text" },
          { body: new Uint8Array([1, 2, 3]) },
          { body: new URLSearchParams({ a: "b" }) },
          { body: new Blob(["blob"]) },
          { body: form },
          { body: new Blob(["stream"]).stream() },
        ];
        const answers: string[] = [];
        for (const init of bodies) {
          answers.push(await (await client(url, { method: "POST", ...init })).text());
          if (init.body instanceof ReadableStream) continue;
          const request = new Request(url, { method: "POST", ...init });
          answers.push(await (await client(request)).text());
        }
        return answers;
      });
      expect(answers).toEqual(Array.from({ length: 11 }, () => "ok"));
      for (let call = 0; call < seen.length; call += 2) expect(seen[call + 1]).toBe(seen[call]);
      expect(
        seen.filter((_, index) => index % 2 === 0).map((body) => body.length > 0),
      ).not.toContain(false);
    });

    test("an abort reaches the server's answer, and the caller's reason comes back", async () => {
      const { openPage, payments } = await open(() => new Promise(() => {}));
      const page = await openPage();
      await loadClient(page);
      const call = page.evaluate(async () => {
        const controller = new AbortController();
        Object.assign(globalThis, { stop: () => controller.abort("the user left") });
        return createClient()("/payments", {
          method: "POST",
          body: '{"order":"1","amount":1}',
          signal: controller.signal,
        }).catch((reason: unknown) => reason);
      });
      await expect.poll(() => payments).toHaveLength(1);
      await page.evaluate(() => (globalThis as unknown as { stop(): void }).stop());
      expect(await call).toBe("the user left");
    });
  },
);

test("the example starts as its README says, and serves the page with its modules", async () => {
  const env = { ...process.env, SEMEL_LISTEN: "127.0.0.1:0" };
  const child = spawn(process.execPath, [SERVER], { env, stdio: ["ignore", "pipe", "inherit"] });
  onTestFinished(async () => {
    child.kill();
    if (child.exitCode === null && child.signalCode === null) await once(child, "exit");
  });
  const [line] = (await once(createInterface(child.stdout), "line")) as [string];
  const url = /^Listening on (\S+)$/.exec(line)![1]!;
  expect(await (await fetch(url)).text()).toContain("<title>Pay once</title>");
  const module = await fetch(`${url}/semel/client/index.js`);
  expect(module.headers.get("content-type")).toContain("text/javascript");
  for (const outside of ["/semel/../package.json", "/semel/%2e%2e/package.json", "/other"]) {
    expect((await fetch(`${url}${outside}`)).status, outside).toBe(404);
  }
  expect(await (await fetch(`${url}/payments`)).json()).toEqual([]);
});
