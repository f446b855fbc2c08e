// Whoever observes operations can put handlers into a context of their own, as tracing does (OB-1).

import assert from "node:assert/strict";
import { AsyncLocalStorage } from "node:async_hooks";
import { subscribe, unsubscribe } from "node:diagnostics_channel";
import type { SemelWork } from "../../../events.ts";
import { type FrameworkHarness, frameworkCase } from "../harness.ts";
import { freshKey, withScene } from "../scene.ts";

export const observationCases = [
  frameworkCase(
    "OB-1: the handler runs in the context of whoever observes it, and a replay has none",
    async (harness: FrameworkHarness) => {
      const context = new AsyncLocalStorage<SemelWork>();
      const works: SemelWork[] = [];
      const onWork = (message: unknown) => {
        const work = message as SemelWork;
        works.push(work);
        const { call } = work;
        work.call = (inner) => context.run(work, () => call(inner));
      };
      subscribe("semel:work", onWork);
      try {
        await withScene(harness, {}, async (scene) => {
          const seen: (SemelWork | undefined)[] = [];
          const enter = scene.stage.enter.bind(scene.stage);
          scene.stage.enter = (route) => {
            seen.push(context.getStore());
            return enter(route);
          };
          const key = freshKey();
          await scene.post("json", { key });
          await scene.post("json", { key });
          assert.equal(works.length, 1);
          assert.deepEqual(seen, [works[0]]);
          await scene.post("json");
          assert.deepEqual(seen, [works[0], undefined]);
          assert.equal(works[0]?.kind, "operation");
          assert.equal(works[0]?.attempt, 1);
        });
      } finally {
        unsubscribe("semel:work", onWork);
      }
    },
  ),
];
