// `semel gateway`: reads the flags, runs a gateway until it is told to stop.

import { Command, Option } from "commander";
import { memoryStore } from "semel/memory";
import { EXIT, Failure } from "./failure.ts";
import {
  bytes,
  duration,
  type ListenAddress,
  listenAddress,
  methods,
  origin,
  patience,
  timeout,
} from "./flags.ts";
import { AccessLog, type LogFormat } from "./gateway/access-log.ts";
import type { GatewayOptions } from "./gateway/options.ts";
import { Gateway } from "./gateway/proxy.ts";
import { parseScope, type Scope } from "./gateway/scope.ts";
import { openStore } from "./gateway/store.ts";

interface GatewayFlags {
  upstream?: URL;
  listen: ListenAddress;
  store: string;
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
}

const EXAMPLES = `
Examples:
  Keep keys in ./semel.db; callers are told apart by their Authorization header:
    $ semel gateway --upstream http://127.0.0.1:3000

  Demand a key on POST, and let duplicates wait for the first one's answer:
    $ semel gateway --upstream http://127.0.0.1:3000 --methods POST --required --wait 10s

  Behind a proxy that authenticates callers and names them in a header:
    $ semel gateway --upstream http://10.0.0.5 --listen 0.0.0.0:8080 --scope header:X-Account --trust-forwarded

A retry with another credential (a refreshed token) is another caller under --scope authorization;
where credentials change between retries, use header:NAME.

SIGTERM or SIGINT stops it when running requests have ended (see --drain); a second one, at once.

Exit codes: 0 stopped as asked, 1 failed while starting or running, 2 wrong usage.`;

export function gatewayCommand(): Command {
  const command = new Command("gateway")
    .description("Puts idempotency keys in front of an HTTP service, in whatever language it is.")
    .addHelpText("after", EXAMPLES)
    .action(async (flags: GatewayFlags) => {
      process.exit(await run(flags));
    });
  for (const flag of [...serviceFlags(), ...policyFlags(), ...boundFlags(), ...logFlags()]) {
    command.addOption(flag);
  }
  return command;
}

function serviceFlags(): Option[] {
  return [
    new Option("--upstream <url>", "the service behind, such as http://127.0.0.1:3000").argParser(
      origin,
    ),
    option("--listen <host:port>", "where to listen", listenAddress, "127.0.0.1:8080"),
    new Option("--store <address>", "where records are kept: sqlite:PATH or memory:").default(
      "sqlite:./semel.db",
    ),
    option(
      "--scope <who>",
      "whose key it is: authorization, header:NAME or shared",
      parseScope,
      "authorization",
    ),
    option("--methods <list>", "methods whose keys count", methods, "POST,PATCH"),
    new Option("--required", "refuse these methods without a key").default(false),
    new Option(
      "--trust-forwarded",
      "pass on the X-Forwarded-* and Forwarded headers of clients",
    ).default(false),
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

async function run(flags: GatewayFlags): Promise<number> {
  const options = optionsOf(flags);
  assertNoLoop(options);
  const log = new AccessLog(flags.log);
  const signalled = untilSignalled();
  // Bounds are the library's to check; a wrong one must be told before a file is made.
  new Gateway(memoryStore(), options, log);
  const { store, close } = await openStore(options.store);
  try {
    const gateway = new Gateway(store, options, log);
    const address = await gateway.start();
    const upstream = options.upstream.origin;
    log.note(
      "listening",
      `Listening on ${address}, in front of ${upstream}, keys in ${options.store}`,
      {
        address,
        upstream,
        store: options.store,
      },
    );
    await signalled;
    log.note("stopping", "Stopping: waiting for what runs");
    const cut = await gateway.stop(flags.drain);
    log.note("stopped", cut === 0 ? "Stopped" : `Stopped; ${cut} operations were cut short`, {
      cut,
    });
  } finally {
    close();
  }
  return 0;
}

function optionsOf(flags: GatewayFlags): GatewayOptions {
  const { upstream, listen, store, scope, methods, required, onCrash, onError } = flags;
  // Not Commander's to demand: it would name this one where another one is misspelt.
  if (upstream === undefined) {
    throw new Failure("--upstream is required: the service behind, such as http://127.0.0.1:3000", {
      exit: EXIT.usage,
    });
  }
  return {
    ...{ upstream, listen, store, scope, methods, required, onCrash, onError },
    retentionMs: flags.retention,
    leaseMs: flags.lease,
    waitMs: flags.wait,
    bodyBytesMax: flags.maxBody,
    resultBytesMax: flags.maxResult,
    upstreamTimeoutMs: flags.upstreamTimeout,
    trustForwarded: flags.trustForwarded,
  };
}

/** A gateway in front of itself would answer its first request with all the sockets there are. */
function assertNoLoop({ upstream, listen: { host, port } }: GatewayOptions): void {
  const named = upstream.hostname.replace(/^\[(.*)\]$/, "$1");
  const isEveryAddress = host === "0.0.0.0" || host === "::";
  const isOwnHost = host === named || (isEveryAddress && /^(?:localhost$|127\.|::1$)/.test(named));
  if (!isOwnHost || port !== Number(upstream.port || 80)) return;
  throw new Failure(
    `--upstream ${upstream.origin} is the gateway itself; give the service's address, or choose another one with --listen`,
    { exit: EXIT.usage },
  );
}

/** Resolves at the first SIGTERM or SIGINT; the second one ends the process. */
function untilSignalled(): Promise<void> {
  return new Promise((resolve) => {
    let isStopping = false;
    for (const [signal, number] of [
      ["SIGINT", 2],
      ["SIGTERM", 15],
    ] as const) {
      process.on(signal, () => {
        if (isStopping) process.exit(128 + number);
        isStopping = true;
        resolve();
      });
    }
  });
}
