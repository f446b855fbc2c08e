// `semel doctor`: looks at a store as somebody does who has to sign that it may be relied on.

import { Command, Option } from "commander";
import { Idempotency, isSemelError, type QueueStats } from "semel";
import { colorsOf } from "./check/report/text.ts";
import { type Diagnosis, type Finding, mend, note, ok } from "./doctor/finding.ts";
import { diagnoseMysql } from "./doctor/mysql.ts";
import { diagnosePostgres } from "./doctor/postgres.ts";
import { diagnoseRedis } from "./doctor/redis.ts";
import { diagnoseSqlite } from "./doctor/sqlite.ts";
import { EXIT, Failure } from "./failure.ts";
import { clean, fieldsOf, jsonLine, linesOf, shownDuration } from "./output.ts";
import { parseAddress } from "./stores/address.ts";
import {
  assertReady,
  explained,
  type OpenStore,
  openStore,
  type StoreFlags,
  storeFlags,
} from "./stores/open.ts";

const EXAMPLES = `
It writes nothing. A finding is "ok", "note" (somebody should know) or "MEND" (has to be changed). Then
come the failure windows that stay open with this configuration, in words to agree to or not. Piped,
a line is a verdict, a check and what was found, with tabs between; windows have the verdict "window".

Examples:
    $ semel doctor
    $ semel doctor --store redis://cache:6379 --json

Exit codes: 0 nothing has to be mended, 1 something has, 2 wrong usage.`;

export function doctorCommand(): Command {
  const command = new Command("doctor")
    .description("Checks a store's settings, and says what can still go wrong.")
    .addHelpText("after", EXAMPLES)
    .action(async (flags: StoreFlags & { json?: boolean }) => {
      const { shown, findings, windows } = await examine(flags);
      const isSound = findings.every(({ verdict }) => verdict !== "mend");
      process.stdout.write(
        flags.json
          ? jsonLine({ store: shown, sound: isSound, findings, windows })
          : textOf(shown, { findings, windows }),
      );
      process.exitCode = isSound ? EXIT.ok : EXIT.failed;
    });
  for (const flag of [...storeFlags(), new Option("--json", "print JSON")]) {
    command.addOption(flag);
  }
  return command;
}

async function examine(flags: StoreFlags): Promise<Diagnosis & { shown: string }> {
  let open: OpenStore;
  try {
    open = await openStore(flags, "administer");
  } catch (error) {
    if (!(error instanceof Failure) || error.exit === EXIT.usage) throw error;
    const remedy = "Mend that first; the other checks need the store";
    return {
      shown: parseAddress(flags.store).shown,
      findings: [mend("reach", error.message, remedy)],
      windows: [],
    };
  }
  const { shown } = open;
  try {
    return { shown, ...(await diagnose(open)) };
  } finally {
    await open.close();
  }
}

async function diagnose(open: OpenStore): Promise<Diagnosis> {
  const schema = await schemaFinding(open);
  let own: Diagnosis;
  try {
    own = await diagnosisOf(open);
  } catch (error) {
    // A server that is not reached fails twice; the store's own words are the better ones.
    if (schema.verdict === "mend") return { findings: [schema], windows: [] };
    throw explained(open, error);
  }
  const findings = [schema, ...own.findings];
  if (schema.verdict === "ok" && open.kind !== "memory") findings.push(...(await contents(open)));
  return { findings, windows: [...own.windows, ...COMMON_WINDOWS] };
}

function diagnosisOf(open: OpenStore): Promise<Diagnosis> {
  switch (open.kind) {
    case "memory":
      return Promise.resolve(MEMORY);
    case "sqlite":
      return diagnoseSqlite(open);
    case "postgres":
      return diagnosePostgres(open);
    case "mysql":
      return diagnoseMysql(open);
    case "redis":
      return diagnoseRedis(open);
  }
}

const MEMORY: Diagnosis = {
  findings: [
    mend(
      "persistence",
      "records are in the memory of one process",
      "Use another store for anything but tests",
    ),
  ],
  windows: [
    "Memory: the end of the process forgets everything; those operations run again when they are retried.",
  ],
};

/** Of every store. */
const COMMON_WINDOWS = [
  "Retention: a retry that comes later than a key is remembered runs again, unless refuseLate is set.",
  "Crash: a process that dies between an effect and its record leaves an unknown outcome. With onCrash hold (the default) it waits for semel records resolve; with rerun the effect may happen twice.",
];

async function schemaFinding(open: OpenStore): Promise<Finding> {
  try {
    await assertReady(open);
    return ok("store", "answers, and is at this version's schema");
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    const { cause } = error;
    const isSilent = isSemelError(cause) && cause.code === "store-unavailable";
    return mend("store", error.message, isSilent ? "Mend that first" : "Do what the message says");
  }
}

const SAMPLE = 100;

/** What the records themselves tell: how long they are kept, and who waits. */
async function contents({ store }: OpenStore): Promise<Finding[]> {
  const idempotency = new Idempotency({ store, cache: false, sweep: false });
  const { states, oldestHeldMs } = await idempotency.stats();
  const { records } = await idempotency.list({ state: "completed", limit: SAMPLE });
  // From completion to expiry, both by the store's clock, which also gave the age.
  const kept = records.flatMap(({ createdAt, updatedAt, ageMs, expiresInMs }) =>
    expiresInMs === null ? [] : [expiresInMs + (createdAt + ageMs - updatedAt)],
  );
  const [shortest, longest] = [Math.min(...kept), Math.max(...kept)];
  const retention =
    kept.length === 0
      ? note(
          "retention",
          "no completed record yet to tell; 24 h unless the application says otherwise",
        )
      : ok("retention", `of the last ${kept.length} completed: ${range(shortest, longest)}`);
  const held =
    oldestHeldMs !== null
      ? note(
          "holds",
          `${states.held} held, the oldest for ${shownDuration(oldestHeldMs)}`,
          "Find out what happened, and say so: semel records list --state held",
        )
      : ok("holds", "none");
  const queue = await idempotency.queueStats();
  return [retention, held, ...(queue ? [queueFinding(queue)] : [])];
}

/** What is due for longer than this, nobody seems to do. */
const DUE_MS_MAX = 5 * 60_000;

function queueFinding({ states, oldestDueMs }: QueueStats): Finding {
  const dead = states.task.dead + states.effect.dead;
  const dueMs = Math.max(oldestDueMs.task ?? 0, oldestDueMs.effect ?? 0);
  if (dead > 0) {
    const remedy =
      "Mend what it failed with, then semel queue retry; see semel queue list --state dead";
    return note("queue", `${dead} given up`, remedy);
  }
  if (dueMs > DUE_MS_MAX) {
    return note(
      "queue",
      `something has been due for ${shownDuration(dueMs)}`,
      "Run a relay or a worker that does it: semel queue list --state waiting, also with --kind task",
    );
  }
  return ok("queue", "nothing given up, nothing overdue");
}

function range(shortest: number, longest: number): string {
  const [from, to] = [shownDuration(shortest), shownDuration(longest)];
  return from === to ? from : `${from} to ${to}`;
}

const WORDS = { ok: "ok", note: "note", mend: "MEND" } as const;

function textOf(shown: string, { findings, windows }: Diagnosis): string {
  const { stdout } = process;
  if (!stdout.isTTY) {
    const rows = [
      ...findings.map(({ verdict, check, found, remedy }) => [verdict, check, found, remedy ?? ""]),
      ...windows.map((window) => ["window", "", window, ""]),
    ];
    const columns = [0, 1, 2, 3].map((at) => ({ title: "", shown: (row: string[]) => row[at]! }));
    return fieldsOf(rows, columns);
  }
  const colors = colorsOf(stdout);
  const paint = { ok: colors.green, note: colors.yellow, mend: colors.red };
  const width = Math.max(...findings.map(({ check }) => check.length));
  const lines = findings.flatMap(({ verdict, check, found, remedy }) => [
    `  ${paint[verdict](WORDS[verdict].padEnd(4))}  ${check.padEnd(width)}  ${clean(found)}`,
    ...(remedy === undefined ? [] : [`  ${" ".repeat(width + 6)}  ${colors.dim(remedy)}`]),
  ]);
  const open = windows.length === 0 ? [] : ["", colors.bold("Failure windows that stay open")];
  return linesOf([
    colors.bold(shown),
    ...lines,
    ...open,
    ...windows.map((window) => `  - ${window}`),
  ]);
}
