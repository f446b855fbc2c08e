// Reads the configuration anew when a signal comes. A broken one is told, and what was serves on.

import { messageOf } from "../failure.ts";
import type { GatewayFlags } from "../gateway.ts";
import type { AccessLog } from "./access-log.ts";
import { assertNoLoop, type GivenFlags, type Settings, settingsOf } from "./config/settings.ts";
import type { Gateway } from "./proxy.ts";

/** What a process has from its start on, by the names that the file has for it. */
const FIXED = {
  ...{ listen: "listen", store: "store", table: "table", prefix: "prefix", log: "log" },
  ...{ admin: "admin.listen", adminToken: "admin.token", adminTokenFile: "admin.tokenFile" },
} as const satisfies { [flag in keyof GatewayFlags]?: string };

/** @returns what gives the settings that are in force */
export function reloadOn(
  signal: NodeJS.Signals,
  given: GivenFlags,
  settings: Settings,
  { gateway, log }: { gateway: Gateway; log: AccessLog },
): () => Settings {
  let latest = settings;
  // Without a file there is nothing to read, and the signal means what it means to any process.
  if (given.values.config === undefined) return () => latest;
  process.on(signal, () => {
    try {
      const next = settingsOf(given);
      assertNoLoop({ ...next.options, listen: settings.options.listen });
      gateway.reload(next.options);
      const fixed = Object.entries(FIXED)
        .filter(([flag]) => !isSame(flagOf(next, flag), flagOf(settings, flag)))
        .map(([, name]) => name);
      for (const name of fixed) {
        log.note(
          "warning",
          `warning: \`${name}\` cannot change while the gateway runs; start it anew`,
        );
      }
      for (const warning of next.warnings) log.note("warning", `warning: ${warning}`);
      latest = next;
      const count = next.options.routes.length;
      log.note("reloaded", `Reloaded ${given.values.config}`, { routes: count, unchanged: fixed });
    } catch (error) {
      const message = messageOf(error);
      log.note("reload-failed", `Not reloaded, and serving as before: ${message}`, {
        reason: message,
      });
    }
  });
  return () => latest;
}

function flagOf({ flags }: Settings, name: string): unknown {
  return flags[name as keyof GatewayFlags];
}

function isSame(one: unknown, other: unknown): boolean {
  return JSON.stringify(one) === JSON.stringify(other);
}
