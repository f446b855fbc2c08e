// The dashboard in a real browser, in front of a real gateway (UI-1): the main paths with the mouse, and
// with the keyboard alone; without violations that axe finds, in light and dark; without a word on the
// console, and without a request to anywhere else.

import { join } from "node:path";
import { AxeBuilder } from "@axe-core/playwright";
import type { Browser, BrowserContextOptions, Page } from "playwright-core";
import { Idempotency } from "semel";
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { chromiumMissing, launchChromium } from "../../../semel/test/client/chromium.ts";
import { openStore } from "../../src/stores/open.ts";
import { cleanUp, folder, gateway, started, upstream } from "../processes.ts";
import { administered, adminUrl, api, SCOPE, TOKEN } from "./administering.ts";

const missing = chromiumMissing();
const PATIENCE_MS = 20_000;

describe.skipIf(missing !== undefined)(
  `in Chromium${missing ? ` (skipped: ${missing})` : ""}`,
  () => {
    let browser: Browser;
    let url: string;
    let pay: Awaited<ReturnType<typeof administered>>["pay"];

    beforeAll(async () => {
      browser = await launchChromium();
      ({ url, pay } = await administered());
      for (let n = 1; n <= 60; n++) await pay(`order-${String(n).padStart(2, "0")}`);
      await pay("order-60");
    });
    afterAll(async () => {
      await browser.close();
      await cleanUp();
    });

    /** A page, which fails the test when it says anything on the console, or asks anybody else. */
    async function opened(
      path = "/",
      options: BrowserContextOptions & { at?: string; mayFail?: boolean } = {},
    ): Promise<Page> {
      const { at = url, mayFail = false, ...contextOptions } = options;
      const context = await browser.newContext(contextOptions);
      context.setDefaultTimeout(PATIENCE_MS);
      const complaints: string[] = [];
      const page = await context.newPage();
      page.on("pageerror", (error) => complaints.push(error.message));
      page.on("console", (message) => {
        // That a request failed, the browser says by itself.
        const isOfRequest = message.text().startsWith("Failed to load resource");
        if (!(mayFail && isOfRequest)) complaints.push(message.text());
      });
      page.on("request", (request) => {
        if (new URL(request.url()).origin !== at) complaints.push(`asked ${request.url()}`);
      });
      onTestFinished(async () => {
        await context.close();
        expect(complaints).toEqual([]);
      });
      await page.goto(at + path);
      return page;
    }

    async function seen(page: Page, text: string | RegExp): Promise<void> {
      await page.getByText(text).first().waitFor();
    }

    async function focused(page: Page, text: string): Promise<void> {
      await page.locator(":focus", { hasText: text }).waitFor();
    }

    test("the first page says whether anything is held, and what happens as it happens", async () => {
      const page = await opened();
      await seen(page, "Nothing is held.");
      await pay("fresh-1");
      await page.getByRole("link", { name: "fresh-1" }).waitFor();
      await pay("fresh-held", "/broken");
      await page.getByRole("heading", { name: "1 operation is held" }).waitFor();
      expect(await page.title()).toBe("(1 held) Overview · Semel");
      const charts = page.getByRole("img");
      await charts.first().waitFor();
      const names = await charts.evaluateAll((all) =>
        all.map((one) => one.getAttribute("aria-label")),
      );
      expect(names).toEqual([
        expect.stringMatching(/^Requests with keys, a second\. Now: executed [\d.]+, replayed/),
        expect.stringMatching(/^Median time\. Now: executed/),
        expect.stringMatching(/^Held\. Now: held \d/),
        expect.stringMatching(/^Records\. Now: in all states \d+/),
      ]);
      // Drawn, not only named: the canvas holds more than one colour.
      const colors = await page.evaluate(CANVAS_COLORS);
      expect(colors).toBeGreaterThan(2);
      await page.getByRole("link", { name: "Decide" }).click();
      await page.getByRole("heading", { name: "What is held" }).waitFor();
      await api.decide(url, "void", { key: "fresh-held", scope: SCOPE });
    });

    test("a whole key is found at once, with its timeline and its answer", async () => {
      const page = await opened("/#/records");
      await page.getByLabel("Key, or part of one").fill("order-60");
      await page.getByLabel("Scope", { exact: true }).fill(SCOPE);
      await page.getByRole("button", { name: "Search" }).click();
      await page.getByRole("heading", { name: "order-60" }).waitFor();
      const timeline = await page.locator(".timeline li b").allTextContents();
      expect(timeline).toEqual([
        "First asked for",
        "Attempt 1 began",
        "Executed",
        "Replayed",
        "Is forgotten",
      ]);
      await page.getByRole("button", { name: "Show what callers get" }).click();
      await seen(page, /"charge":60/);
      await seen(page, /content-type: application\/json/);
    });

    test("records are paged, filtered, and searched by parts of keys; every view has an address", async () => {
      const page = await opened("/#/records");
      await page.getByRole("link", { name: "order-60", exact: true }).waitFor();
      expect(await page.locator("tbody tr").count()).toBe(50);
      await page.getByRole("button", { name: "Older" }).click();
      await page.getByRole("link", { name: "order-01", exact: true }).waitFor();
      await seen(page, /Page 2/);
      await page.getByRole("button", { name: "Newer" }).click();
      await page.getByRole("link", { name: "order-60", exact: true }).waitFor();

      await page.getByLabel("Key, or part of one").fill("ORDER-0");
      await page.keyboard.press("Enter");
      await seen(page, /9 matches in the newest \d+ records, which is all of them/);
      await expect.poll(() => page.url()).toContain("#/records?find=ORDER-0");
      await page.reload();
      await seen(page, /9 matches/);
      await page.getByRole("radio", { name: "Completed" }).check();
      await seen(page, /9 matches/);
      // The choice keeps the focus: arrows go on from there.
      await page.keyboard.press("ArrowRight");
      await seen(page, "No record is like that.");
      await expect.poll(() => page.url()).toContain("state=held");
    });

    test("what is held is resolved after it was asked twice, and the key may run again", async () => {
      await pay("stuck-1", "/broken");
      const page = await opened("/#/records?state=held");
      await page.getByRole("link", { name: "stuck-1" }).click();
      await page.getByRole("button", { name: "Resolve…" }).click();
      const dialog = page.getByRole("dialog", { name: "Resolve" });
      await dialog.getByRole("button", { name: "Resolve" }).click();
      await dialog.getByText("Say what was found out.").waitFor();
      await dialog.getByText("It was not applied").click();
      await dialog.getByRole("button", { name: "Let it run again" }).click();
      await seen(page, "stuck-1 may run again.");
      await page.locator(".record-head .badge", { hasText: "released" }).waitFor();
      expect((await api.record(url, "stuck-1")).record.state).toBe("open");
    });

    test("what was applied is resolved with the answer that callers get from then on", async () => {
      await pay("stuck-2", "/broken");
      const page = await opened(
        `/#/record?${new URLSearchParams({ scope: SCOPE, key: "stuck-2" })}`,
      );
      await page.getByRole("button", { name: "Resolve…" }).click();
      const dialog = page.getByRole("dialog");
      await dialog.getByText("It was applied").click();
      await dialog.getByLabel("Status").fill("99");
      await dialog.getByRole("button", { name: "Answer with this" }).click();
      await dialog.getByText("The status is a number from 200 to 999.").waitFor();
      await dialog.getByLabel("Status").fill("201");
      await dialog.getByLabel("Body").fill('{"charge":"found"}');
      await dialog.getByRole("button", { name: "Answer with this" }).click();
      await page.locator(".record-head .badge", { hasText: "completed" }).waitFor();
      expect(await pay("stuck-2", "/broken")).toEqual({
        status: 201,
        fate: "replayed",
        text: '{"charge":"found"}',
      });
    });

    test("voiding and forgetting say what follows, and nothing happens when it is cancelled", async () => {
      await pay("stuck-3", "/broken");
      const page = await opened(
        `/#/record?${new URLSearchParams({ scope: SCOPE, key: "stuck-3" })}`,
        { mayFail: true },
      );
      await page.getByRole("button", { name: "Void…" }).click();
      await page.getByRole("button", { name: "Cancel" }).click();
      expect((await api.record(url, "stuck-3")).record.state).toBe("held");
      await page.getByRole("button", { name: "Void…" }).click();
      await page.getByRole("button", { name: "Never run it" }).click();
      await page.locator(".record-head .badge", { hasText: "void" }).waitFor();

      await page.getByRole("button", { name: "Forget…" }).click();
      const forget = page.getByRole("button", { name: "Forget it" });
      expect(await forget.isDisabled()).toBe(true);
      await page.getByLabel("What it did may be done once more").check();
      await forget.click();
      await seen(page, "There is no such record; it may have expired");
    });

    test("a key that nobody has asked for yet is voided, so that it never runs", async () => {
      const page = await opened(
        `/#/records?${new URLSearchParams({ find: "early", scope: SCOPE })}`,
        {
          mayFail: true,
        },
      );
      await page.getByRole("link", { name: "Void this key" }).click();
      await seen(page, "There is no such record; it may have expired");
      await page.getByRole("button", { name: "Void…" }).click();
      await page.getByRole("button", { name: "Never run it" }).click();
      await page.locator(".record-head .badge", { hasText: "void" }).waitFor();
      expect((await pay("early")).fate).toBe("void");
    });

    describe("with effects in the store", () => {
      let at: string;

      beforeAll(async () => {
        at = await queueing();
      });

      test("what was given up is found from the first page, looked into, and delivered again", async () => {
        const page = await opened("/", { at });
        await page.getByRole("link", { name: /Effects given up\s*1/ }).click();
        await page.getByRole("link", { name: "mail" }).click();
        await page.getByRole("heading", { name: "mail" }).waitFor();
        await seen(page, "attempts-exhausted: no such mailbox");
        await page.getByRole("button", { name: "Show what was recorded" }).click();
        await seen(page, /"to": "ada@example.com"/);
        await page.getByRole("button", { name: "Deliver again…" }).click();
        await page.getByRole("button", { name: "Deliver again", exact: true }).click();
        await seen(page, "mail is due now.");
        await page.locator(".record-head .badge", { hasText: "waiting" }).waitFor();
      });

      test("a record's timeline has its effects, and leads to them", async () => {
        const page = await opened("/#/record?key=order-2", { at, mayFail: true });
        const entries = page.locator(".timeline li", { hasText: "Effect" });
        await entries.first().waitFor();
        expect(await entries.allTextContents()).toEqual([
          expect.stringMatching(/^Effect push ?delivered, 1 attempt$/),
          expect.stringMatching(/^Effect sms ?waiting, due for/),
        ]);
        await page.getByRole("link", { name: "Effect sms" }).click();
        await page.getByRole("heading", { name: "sms" }).waitFor();
        await page.getByRole("button", { name: "Forget…" }).click();
        await page.getByRole("button", { name: "Forget it" }).click();
        await seen(page, "There is nothing like this in the queue; it may have expired");
      });

      test("by keyboard: to the queue, its durable operations, and one of them", async () => {
        const page = await opened("/", { at });
        await page.getByRole("link", { name: /^Queue/ }).waitFor();
        await page.keyboard.press("g");
        await page.keyboard.press("q");
        await page.getByRole("heading", { name: "Queue" }).waitFor();
        await page.getByRole("radio", { name: "Effects" }).focus();
        await page.keyboard.press("ArrowRight");
        await page.getByRole("link", { name: "ride" }).waitFor();
        await expect.poll(() => page.url()).toContain("kind=task");
        await page.getByRole("radio", { name: "Durable operations" }).blur();
        await page.keyboard.press("j");
        await focused(page, "ride");
        await page.keyboard.press("Enter");
        await page.getByRole("heading", { name: "ride" }).waitFor();
        await seen(page, /waiting, due for/);
      });

      test("axe finds nothing wrong with the queue and what is in it", async () => {
        const page = await opened("/", { at });
        await page.getByRole("link", { name: /Effects waiting/ }).waitFor();
        expect(await violations(page)).toEqual([]);
        await page.goto(`${at}/#/queue`);
        await page.getByRole("link", { name: "push" }).click();
        await page.getByRole("heading", { name: "push" }).waitFor();
        expect(await violations(page)).toEqual([]);
        await page.getByRole("button", { name: "Forget…" }).click();
        expect(await violations(page)).toEqual([]);
        await page.goto(`${at}/#/queue?kind=task`);
        await page.getByRole("link", { name: "ride" }).waitFor();
        expect(await violations(page)).toEqual([]);
      });
    });

    /** @returns the address of a dashboard of a store with one effect in each state, and a durable operation */
    async function queueing(): Promise<string> {
      const path = await migrated();
      const open = await openStore({ store: `sqlite:${path}` }, "administer");
      const idempotency = new Idempotency({ store: open.store, sweep: false });
      await idempotency.run({ key: "order-1" }, ({ effect }) =>
        effect("mail", { to: "ada@example.com" }),
      );
      await idempotency.run({ key: "order-2" }, async ({ effect }) => {
        await effect("push");
        await effect("sms");
      });
      const fails = () => Promise.reject(new Error("no such mailbox"));
      const relay = idempotency.relay({ mail: { deliver: fails, attemptsMax: 1 }, push: () => {} });
      await relay.drain();
      await relay.close();
      const ride = idempotency.operation("ride", { handler: () => "done" });
      await ride.start({ key: "ride-1", input: {} });
      await open.close();
      const listen = ["--listen", "127.0.0.1:0", "--json"];
      return adminUrl(await started(["dashboard", "--store", `sqlite:${path}`, ...listen]));
    }

    test("by keyboard alone: to what is held, through the rows, to a decision and back", async () => {
      await pay("stuck-4", "/broken");
      const page = await opened();
      await seen(page, /operations? (is|are) held/);
      await page.keyboard.press("Tab");
      await focused(page, "Skip to the content");
      await page.keyboard.press("g");
      await page.keyboard.press("h");
      await page.getByRole("heading", { name: "What is held" }).waitFor();
      await page.getByRole("link", { name: "stuck-4" }).waitFor();
      await page.keyboard.press("j");
      await focused(page, "stuck-4");
      await page.keyboard.press("Enter");
      const resolve = page.getByRole("button", { name: "Resolve…" });
      await resolve.waitFor();
      await tabTo(page, "Resolve…");
      await page.keyboard.press("Enter");
      await page.getByRole("dialog").waitFor();
      // The page behind is out of reach; Escape leads back to where one was.
      await page.keyboard.press("Escape");
      await page.getByRole("dialog").waitFor({ state: "detached" });
      await focused(page, "Resolve…");
      await page.keyboard.press("Enter");
      await page.getByRole("dialog").waitFor();
      // The first choice has the focus.
      await page.keyboard.press("Space");
      await page.keyboard.press("Enter");
      await seen(page, "stuck-4 may run again.");

      await page.keyboard.press("/");
      await page.keyboard.press("?");
      await page.getByRole("dialog", { name: "Keyboard shortcuts" }).waitFor();
      await page.getByLabel("Single keys do these things").uncheck();
      await page.keyboard.press("Escape");
      await page.keyboard.press("g");
      await page.keyboard.press("o");
      expect(page.url()).toContain("#/record");
    });

    test("the theme is the system's, until another one is chosen, which is kept", async () => {
      const page = await opened("/", { colorScheme: "dark" });
      const paper = () => page.evaluate("getComputedStyle(document.body).backgroundColor");
      await page.getByRole("heading", { level: 1, name: /held/ }).waitFor();
      const dark = await paper();
      await page.getByRole("button", { name: /^Theme: system/ }).click();
      const light = await paper();
      expect(light).not.toBe(dark);
      await page.reload();
      await page.getByRole("button", { name: /^Theme: light/ }).waitFor();
      expect(await paper()).toBe(light);
      await page.getByRole("button", { name: /^Theme: light/ }).click();
      expect(await paper()).toBe(dark);
    });

    test("a connection that is lost is told, and made again when there is something to connect to", async () => {
      const behind = await upstream((_request, response) => response.end("done"));
      const store = ["--store", `sqlite:${join(await folder(), "semel.db")}`];
      const flags = ["--scope", "shared", ...store];
      const first = await gateway(behind.url, ...flags, "--admin", "127.0.0.1:0");
      const at = adminUrl(first);
      const page = await opened("/", { at, mayFail: true });
      await seen(page, "Live");
      await first.end("SIGKILL");
      await seen(page, "The connection is lost");
      await seen(page, "Not connected");
      const again = await gateway(behind.url, ...flags, "--admin", new URL(at).host);
      await page.getByText("The connection is lost").waitFor({ state: "detached" });
      await fetch(again.url, { method: "POST", headers: { "idempotency-key": "after" } });
      await page.getByRole("link", { name: "after" }).waitFor();
    });

    test("a token is asked for, once; a wrong one is told; whoever logs out is out", async () => {
      const process = await started(
        ["dashboard", "--store", `sqlite:${await migrated()}`, "--listen", "127.0.0.1:0", "--json"],
        { SEMEL_ADMIN_TOKEN: TOKEN },
      );
      const at = adminUrl(process);
      const page = await opened("/#/records", { at, mayFail: true });
      await page.getByLabel("Admin token").fill("not-the-token");
      await page.getByRole("button", { name: "Log in" }).click();
      await seen(page, "This is not the token");
      await page.getByLabel("Admin token").fill(TOKEN);
      await page.keyboard.press("Enter");
      await seen(page, "There are no records yet.");
      await page.reload();
      await seen(page, "There are no records yet.");
      await page.getByRole("button", { name: "Log out" }).click();
      await page.getByLabel("Admin token").waitFor();
      await page.reload();
      await page.getByLabel("Admin token").waitFor();
    });

    async function migrated(): Promise<string> {
      const path = join(await folder(), "semel.db");
      const behind = await upstream((_request, response) => response.end());
      const making = await gateway(behind.url, "--store", `sqlite:${path}`);
      await making.end("SIGTERM");
      return path;
    }

    /** @param rules which to hold it against; all, unless said otherwise */
    async function violations(page: Page, rules?: string[]): Promise<string[]> {
      // There are no frames, for which it would open another page each time.
      const axe = new AxeBuilder({ page }).setLegacyMode();
      if (rules) axe.withRules(rules);
      const { violations } = await axe.analyze();
      return violations.flatMap(({ id, nodes }) =>
        nodes.map(({ html, failureSummary }) => `${id}: ${html} ${failureSummary}`),
      );
    }

    describe.each(["light", "dark"] as const)("axe finds nothing wrong, in %s", (colorScheme) => {
      // The other rules know no colours.
      const rules = colorScheme === "dark" ? ["color-contrast"] : undefined;

      test("with the overview, records, a record and its dialogs", async () => {
        await pay("stuck-5", "/broken");
        const page = await opened("/", { colorScheme });
        await page.getByRole("link", { name: "stuck-5" }).first().waitFor();
        expect(await violations(page, rules)).toEqual([]);
        await page.goto(`${url}/#/records?find=order-1`);
        await seen(page, /10 matches/);
        expect(await violations(page, rules)).toEqual([]);
        await page.goto(`${url}/#/record?${new URLSearchParams({ scope: SCOPE, key: "stuck-5" })}`);
        await page.getByRole("heading", { name: "stuck-5" }).waitFor();
        expect(await violations(page, rules)).toEqual([]);
        await page.getByRole("button", { name: "Resolve…" }).click();
        await page.getByText("It was applied").click();
        expect(await violations(page, rules)).toEqual([]);
        await page.keyboard.press("Escape");
        await page.getByRole("button", { name: "Forget…" }).click();
        expect(await violations(page, rules)).toEqual([]);
        await page.keyboard.press("Escape");
        await page.keyboard.press("?");
        await page.getByRole("dialog").waitFor();
        expect(await violations(page, rules)).toEqual([]);
      });
    });
  },
);

/** How many colours there are on the first canvas; a script of the page, whose types are others. */
const CANVAS_COLORS = `(() => {
  const canvas = document.querySelector("canvas");
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return new Set(new Uint32Array(data.buffer)).size;
})()`;

/** Presses Tab until something with this text has the focus. */
async function tabTo(page: Page, text: string): Promise<void> {
  for (let presses = 0; presses < 60; presses++) {
    if ((await page.evaluate("document.activeElement.textContent")) === text) return;
    await page.keyboard.press("Tab");
  }
  throw new Error(`Tab does not lead to ${text}`);
}
