// `semel gateway`: reads the flags, runs a gateway until it is told to stop.

import { Command, Option } from "commander";
import { adminFlag, type TokenFlags, tokenFlags, tokenOf } from "./admin/flags.ts";
import { Health } from "./admin/health.ts";
import { AdminListener } from "./admin/listener.ts";
import { fromEnvironment } from "./environment.ts";
import { EXIT } from "./failure.ts";
import {
  bytes,
  duration,
  headerName,
  type ListenAddress,
  listenAddress,
  methods,
  names,
  origin,
  patience,
  timeout,
} from "./flags.ts";
import { AccessLog, type LogFormat } from "./gateway/access-log.ts";
import { type GivenFlags, type Settings, settingsOf } from "./gateway/config/settings.ts";
import { endSuccessor, handoverOn, sayThatItServes } from "./gateway/handover.ts";
import type { GatewayOptions } from "./gateway/options.ts";
import { Gateway } from "./gateway/proxy.ts";
import { reloadOn } from "./gateway/reload.ts";
import { parseScope, type Scope, serviceUrl, shownScope } from "./gateway/scope.ts";
import { untilSignalled } from "./signals.ts";
import {
  assertReady,
  explained,
  type OpenStore,
  openStore,
  type StoreFlags,
  storeFlags,
} from "./stores/open.ts";
import { version } from "./version.ts";

export interface GatewayFlags extends StoreFlags, TokenFlags {
  config?: string;
  checkConfig: boolean;
  mode: "enforce" | "audit";
  jwks?: URL;
  jwtIssuer: string[];
  jwtAudience: string[];
  jwtClockTolerance: number;
  authPrincipal: string;
  authTimeout: number;
  upstream?: URL;
  listen: ListenAddress;
  scope: Scope;
  methods: string[];
  required: boolean;
  retention: number;
  lease: number;
  wait: number;
  onCrash: "hold" | "rerun";
  onError: "release" | "hold" | "store";
  maxBody: number;
  maxResult: number;
  upstreamTimeout: number;
  drain: number;
  trustForwarded: boolean;
  log: LogFormat;
  admin?: ListenAddress;
}

const EXAMPLES = `
Examples:
  Keep keys in ./semel.db; callers are told apart by their Authorization header:
    $ semel gateway --upstream http://127.0.0.1:3000

  Demand a key on POST, and let duplicates wait for the first one's answer:
    $ semel gateway --upstream http://127.0.0.1:3000 --methods POST --required --wait 10s

  Two gateways on two machines share one store, which \`semel migrate\` has made ready:
    $ SEMEL_STORE=postgres://semel:secret@db/semel semel gateway --upstream http://127.0.0.1:3000

  With rules for single routes, which SIGHUP reads anew; and whether they are right:
    $ semel gateway --config semel.yaml
    $ semel gateway --config semel.yaml --check-config

  Callers are told apart by the subject of a token that is verified:
    $ semel gateway --upstream http://127.0.0.1:3000 --scope jwt:sub --jwks https://issuer.example/jwks.json --jwt-audience payments

  Stop nothing yet, and see what would have been stopped:
    $ semel gateway --upstream http://127.0.0.1:3000 --mode audit

  Behind a proxy that authenticates callers and names them in a header:
    $ semel gateway --upstream http://10.0.0.5 --listen 0.0.0.0:8080 --scope header:X-Account --trust-forwarded

  With the dashboard, metrics and health on an address of their own:
    $ semel gateway --upstream http://127.0.0.1:3000 --admin 127.0.0.1:9090

Every flag that has one can be given by the variable of the environment that stands beside it.

A retry with another credential (a refreshed token) is another caller under --scope authorization;
where credentials change between retries, use jwt:CLAIM, auth-request:URL or header:NAME.

Flags come before variables of the environment, these before --config, and that before the defaults. What
a route says of itself comes before all of them.

SIGHUP reads --config anew. SIGUSR2 starts a successor, which takes over the listening sockets, and stops
when that serves. SIGTERM or SIGINT stops it when running requests have ended (see --drain); a second one, at once.

Exit codes: 0 stopped as asked, 1 failed while starting or running, 2 wrong usage.`;

export function gatewayCommand(): Command {
  const command = new Command("gateway")
    .description("Puts idempotency keys in front of an HTTP service, in whatever language it is.")
    .addHelpText("after", EXAMPLES)
    .action(async (values: GatewayFlags) => {
      const isGiven = (name: string) =>
        !["default", undefined].includes(command.getOptionValueSource(name));
      process.exit(await run({ values, isGiven }));
    });
  for (const flag of [
    ...serviceFlags(),
    ...configFlags(),
    ...callerFlags(),
    ...storeFlags(),
    ...policyFlags(),
    ...boundFlags(),
    ...logFlags(),
    adminFlag(),
    ...tokenFlags(),
  ]) {
    command.addOption(fromEnvironment(flag));
  }
  return command;
}

function serviceFlags(): Option[] {
  return [
    new Option("--upstream <url>", "the service behind, such as http://127.0.0.1:3000").argParser(
      origin,
    ),
    option("--listen <host:port>", "where to listen", listenAddress, "127.0.0.1:8080"),
    option("--methods <list>", "methods whose keys count", methods, "POST,PATCH"),
    new Option("--required", "refuse these methods without a key").default(false),
    new Option(
      "--trust-forwarded",
      "pass on the X-Forwarded-* and Forwarded headers of clients",
    ).default(false),
  ];
}

function configFlags(): Option[] {
  return [
    new Option("--config <file>", "a file in YAML, with rules for single routes"),
    new Option("--check-config", "only say whether the configuration is right").default(false),
    new Option("--mode <mode>", "audit stops nothing, and tells what enforce would have stopped")
      .choices(["enforce", "audit"])
      .default("enforce"),
  ];
}

function callerFlags(): Option[] {
  return [
    option(
      "--scope <who>",
      "whose key it is: authorization, header:NAME, jwt:CLAIM, auth-request:URL or shared",
      parseScope,
      "authorization",
    ),
    new Option("--jwks <url>", "the key set that verifies tokens, for jwt:CLAIM").argParser(
      serviceUrl,
    ),
    new Option("--jwt-issuer <list>", "who may have made a token")
      .argParser(names)
      .default([], "anybody with these keys"),
    new Option("--jwt-audience <list>", "whom a token must be for")
      .argParser(names)
      .default([], "anybody"),
    option("--jwt-clock-tolerance <duration>", "how far clocks may be apart", duration, "5s"),
    option(
      "--auth-principal <header>",
      "what names the caller in an answer to auth-request:URL",
      headerName,
      "X-Auth-Request-User",
    ),
    option("--auth-timeout <duration>", "how long auth-request:URL may take", timeout, "5s"),
  ];
}

function policyFlags(): Option[] {
  return [
    option("--retention <duration>", "how long results are kept", duration, "24h"),
    option(
      "--lease <duration>",
      "how long a gateway that died keeps others off its requests",
      duration,
      "30s",
    ),
    option("--wait <duration>", "how long duplicates wait for the first one", duration, "0"),
    new Option("--on-crash <policy>", "when a gateway died while the upstream was at work")
      .choices(["hold", "rerun"])
      .default("hold"),
    new Option("--on-error <policy>", "when the upstream answers 5xx (or 401, 403, 409, 429, …)")
      .choices(["release", "hold", "store"])
      .default("release"),
  ];
}

function boundFlags(): Option[] {
  return [
    option("--max-body <bytes>", "largest body of a request with a key", bytes, "1m"),
    option("--max-result <bytes>", "largest answer that is kept", bytes, "1m"),
    option("--upstream-timeout <duration>", "how long the upstream may be silent", timeout, "60s"),
    option("--drain <duration>", "how long a stop waits for what runs", patience, "10s"),
  ];
}

function logFlags(): Option[] {
  const format = process.stdout.isTTY ? "pretty" : "json";
  return [
    new Option("--log <format>", "a line a request, without keys, credentials or queries")
      .choices(["json", "pretty", "none"])
      .default(format, "pretty on a terminal, otherwise json"),
    new Option("--json", "the same as --log json").implies({ log: "json" }),
  ];
}

/** An option whose default is written, and read, like any other value. */
function option(
  flags: string,
  description: string,
  parse: (written: string) => unknown,
  written: string,
): Option {
  return new Option(flags, description).argParser(parse).default(parse(written), written);
}

async function run(given: GivenFlags): Promise<number> {
  const settings = settingsOf(given);
  const { flags } = settings;
  const log = new AccessLog(flags.log);
  try {
    return await (flags.checkConfig ? checked(settings, log) : serve(given, settings, log));
  } finally {
    await log.end();
  }
}

async function serve(given: GivenFlags, settings: Settings, log: AccessLog): Promise<number> {
  const { flags, options } = settings;
  for (const warning of settings.warnings) log.note("warning", `warning: ${warning}`);
  const signalled = untilSignalled();
  const token = flags.admin && tokenOf(flags, flags.admin);
  const open = await openStore(flags, "serve");
  let admin: AdminListener | undefined;
  try {
    await prepare(open);
    const health = new Health(open.store);
    const gateway = new Gateway(open.store, options, log, health);
    if (flags.admin) {
      admin = adminOf({ open, gateway, health, log, token, listen: flags.admin, options });
      const dashboard = await admin.start();
      log.onRequest = admin.onRequest;
      log.note("admin", `Dashboard, metrics and health on ${dashboard}`, { address: dashboard });
    }
    const address = await gateway.start();
    const upstream = options.upstream.origin;
    // Before anybody is told that it serves: until it is listened for, a signal ends the process.
    const latest = reloadOn("SIGHUP", given, settings, { gateway, log });
    const refusal = open.kind === "memory" ? "the store memory: is in this process" : undefined;
    const handedOver = handoverOn("SIGUSR2", log, refusal);
    log.note(
      "listening",
      `Listening on ${address}, in front of ${upstream}, keys in ${open.shown}`,
      {
        address,
        upstream,
        store: open.shown,
      },
    );
    sayThatItServes();
    await Promise.race([signalled, handedOver]);
    endSuccessor();
    log.note("stopping", "Stopping: waiting for what runs");
    const cut = await gateway.stop(latest().flags.drain);
    if (gateway.options.mode === "audit") gateway.audit.tell();
    log.note("stopped", cut === 0 ? "Stopped" : `Stopped; ${cut} operations were cut short`, {
      cut,
    });
  } finally {
    await admin?.stop();
    await open.close();
  }
  return 0;
}

/** Says what a configuration comes to, and that it is right. */
function checked({ flags, options, warnings }: Settings, log: AccessLog): number {
  if (flags.admin) tokenOf(flags, flags.admin);
  for (const warning of warnings) log.note("warning", `warning: ${warning}`);
  const { upstream, mode, routes, defaults } = options;
  const what = flags.config ?? "The flags";
  const count = routes.length === 1 ? "1 route" : `${routes.length} routes`;
  log.note(
    "config-valid",
    `${what} can be used: ${mode} in front of ${upstream.origin}, ${count}, callers by ${shownScope(defaults.scope)}`,
    { ...{ mode, upstream: upstream.origin, routes: routes.length }, warnings: warnings.length },
  );
  return EXIT.ok;
}

function adminOf({
  open,
  gateway,
  options,
  ...given
}: {
  open: OpenStore;
  gateway: Gateway;
  health: Health;
  log: AccessLog;
  token: string | undefined;
  listen: ListenAddress;
  options: GatewayOptions;
}): AdminListener {
  return new AdminListener({
    ...given,
    flag: "--admin",
    open,
    idempotency: gateway.idempotency,
    about: { version, store: open.shown, upstream: options.upstream.origin },
  });
}

/** A file of its own it brings up to date; what others use as well, an administrator migrates. */
async function prepare(open: OpenStore): Promise<void> {
  if (open.kind !== "sqlite") return assertReady(open);
  await open.migrate().catch((error: unknown) => {
    throw explained(open, error);
  });
}
