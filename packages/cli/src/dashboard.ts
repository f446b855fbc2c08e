// `semel dashboard`: the admin listener by itself, for applications that use the library.

import { Command, Option } from "commander";
import { Idempotency } from "semel";
import { type TokenFlags, tokenFlags, tokenOf } from "./admin/flags.ts";
import { Health } from "./admin/health.ts";
import { AdminListener } from "./admin/listener.ts";
import { fromEnvironment } from "./environment.ts";
import { EXIT, Failure } from "./failure.ts";
import { duration, type ListenAddress, listenAddress } from "./flags.ts";
import { AccessLog } from "./gateway/access-log.ts";
import { untilSignalled } from "./signals.ts";
import { assertReady, openStore, type StoreFlags, storeFlags } from "./stores/open.ts";
import { version } from "./version.ts";

interface DashboardFlags extends StoreFlags, TokenFlags {
  listen: ListenAddress;
  retention: number;
  json?: boolean;
}

const EXAMPLES = `
For applications that use the library, and beside gateways that have no --admin of their own. It watches
the store alone: what is replayed, refused and how long it takes, only the processes that do it know; they
tell OpenTelemetry, and a gateway's own dashboard shows it.

Examples:
    $ semel dashboard
    $ SEMEL_STORE=postgres://semel:secret@db/semel semel dashboard --listen 127.0.0.1:9091

  Reachable from elsewhere, with a token, behind something that speaks TLS:
    $ SEMEL_ADMIN_TOKEN=$(openssl rand -base64 32) semel dashboard --listen 0.0.0.0:9090

Exit codes: 0 stopped as asked, 1 failed while starting or running, 2 wrong usage.`;

export function dashboardCommand(): Command {
  const command = new Command("dashboard")
    .description("Serves the dashboard, metrics and health for a store.")
    .addHelpText("after", EXAMPLES)
    .action(async (flags: DashboardFlags) => {
      process.exit(await run(flags));
    });
  for (const flag of [
    ...storeFlags(),
    new Option("--listen <host:port>", "where to listen")
      .argParser(listenAddress)
      .default(listenAddress("127.0.0.1:9090"), "127.0.0.1:9090")
      .env("SEMEL_ADMIN"),
    ...tokenFlags().map(fromEnvironment),
    new Option("--retention <duration>", "how long decisions are kept")
      .argParser(duration)
      .default(duration("24h"), "24h"),
    new Option("--json", "log as JSON lines"),
  ]) {
    command.addOption(flag);
  }
  return command;
}

async function run(flags: DashboardFlags): Promise<number> {
  const token = tokenOf(flags, flags.listen);
  const signalled = untilSignalled();
  const log = new AccessLog(flags.json || !process.stdout.isTTY ? "json" : "pretty");
  const open = await openStore(flags, "serve");
  let admin: AdminListener | undefined;
  try {
    const { store, shown } = open;
    if (open.kind === "memory") {
      throw new Failure("--store memory: is in the process that made it; name another one", {
        exit: EXIT.usage,
      });
    }
    await assertReady(open);
    admin = new AdminListener({
      ...{ listen: flags.listen, flag: "--listen", token, open, health: new Health(store) },
      idempotency: new Idempotency({
        ...{ store, cache: false, sweep: false, retention: flags.retention },
      }),
      about: { version, store: shown },
      log,
    });
    const address = await admin.start();
    log.note("listening", `Dashboard of ${shown} on ${address}`, { address, store: shown });
    await signalled;
    log.note("stopped", "Stopped");
  } finally {
    await admin?.stop();
    await open.close();
    await log.end();
  }
  return 0;
}
