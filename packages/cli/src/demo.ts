// `semel demo`: pays, retries, crashes and replays, with real processes on this machine, and says what
// it sees.

import { randomUUID } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { Command, Option } from "commander";
import { Idempotency } from "semel";
import { httpResult } from "semel/node";
import { colorsOf } from "./check/report/text.ts";
import { GatewayProcess } from "./demo/gateway-process.ts";
import { Payments } from "./demo/payments.ts";
import { EXIT, Failure } from "./failure.ts";
import { jsonLine } from "./output.ts";
import { openStore } from "./stores/open.ts";

const EXAMPLES = `
It needs nothing: a payments service that is not idempotent, a gateway in front of it and a SQLite file in
a temporary folder are made, and removed at the end. Nobody is charged.

Examples:
    $ semel demo
    $ semel demo --json

Exit codes: 0 it went as it should, 1 it did not, 2 wrong usage.`;

export function demoCommand(): Command {
  return new Command("demo")
    .description("Shows on this machine what keys do: pays, retries, crashes, replays.")
    .addOption(new Option("--json", "print a JSON document a line"))
    .addHelpText("after", EXAMPLES)
    .action(async (flags: { json?: boolean }) => {
      process.exit(await demonstrate(new Telling(flags.json ?? false)));
    });
}

/** What was done, and what came of it. */
interface Act {
  title: string;
  /** Requests that were sent. */
  sent: number;
  /** What came back, the same ones together. */
  answers: { status: number; fate: string; times: number }[];
  /** How often somebody was charged, all in all. */
  charges: number;
  because: string;
  /** What must have been so. */
  expected: { fates: readonly string[]; charges: number };
}

const LEASE_MS = 2_000;
const DUPLICATES = 20;
/** The same caller in every act; the gateway tells callers apart by it. */
const CALLER = { authorization: "Bearer demo" };

async function demonstrate(telling: Telling): Promise<number> {
  const folder = await mkdtemp(join(tmpdir(), "semel-demo-"));
  const store = `sqlite:${join(folder, "demo.db")}`;
  const payments = new Payments();
  const upstream = await payments.start();
  const lease = `${LEASE_MS}ms`;
  const flags = ["--upstream", upstream, "--store", store, "--lease", lease, "--wait", "10s"];
  const gateway = new GatewayProcess(flags);
  const end = async () => {
    await gateway.kill();
    payments.stop();
    await rm(folder, { recursive: true, force: true });
  };
  const interrupted = untilInterrupted();
  try {
    await gateway.start();
    const acts = play({ payments, gateway, store, telling });
    const isAsExpected = await Promise.race([acts, interrupted]);
    return isAsExpected ? EXIT.ok : EXIT.failed;
  } finally {
    await end();
  }
}

function untilInterrupted(): Promise<never> {
  return new Promise((_resolve, reject) => {
    const onSignal = () => reject(new Failure("stopped; nothing is left of it"));
    process.once("SIGINT", onSignal).once("SIGTERM", onSignal);
  });
}

interface Stage {
  payments: Payments;
  gateway: GatewayProcess;
  store: string;
  telling: Telling;
}

async function play({ payments, gateway, store, telling }: Stage): Promise<boolean> {
  let isAsExpected = true;
  const show = (act: Omit<Act, "charges">) => {
    const whole = { ...act, charges: payments.charges };
    const fates = act.answers.map(({ fate }) => fate).sort();
    const isSo =
      whole.charges === act.expected.charges && fates.join() === [...act.expected.fates].join();
    isAsExpected &&= isSo;
    telling.act(whole, isSo);
  };
  const pay = (key: string, amount: number) => send(gateway.url, key, amount);
  const [first, storm, crash] = [randomUUID(), randomUUID(), randomUUID()] as const;

  show({
    title: "Pay 25.00",
    ...summed([await pay(first, 2_500)]),
    because: "A new key: the gateway lets it through, and keeps the answer.",
    expected: { fates: ["executed"], charges: 1 },
  });
  show({
    title: "The answer got lost: send the same again",
    ...summed([await pay(first, 2_500)]),
    because: "The same key: the kept answer, byte for byte. The service was not asked.",
    expected: { fates: ["replayed"], charges: 1 },
  });
  show({
    title: "A bug: the same key, but 99.00",
    ...summed([await pay(first, 9_900)]),
    because: "Another payment under a used key is refused, and shows nothing of the first one.",
    expected: { fates: ["mismatch"], charges: 1 },
  });
  show({
    title: `An impatient client: ${DUPLICATES} times at once`,
    ...summed(await Promise.all(Array.from({ length: DUPLICATES }, () => pay(storm, 500)))),
    because: "One of them runs; the others wait for its answer (--wait).",
    expected: { fates: ["executed", "replayed"], charges: 2 },
  });

  const charged = payments.nextCharge();
  const broken = pay(crash, 4_200);
  await charged;
  await gateway.kill();
  show({
    title: "kill -9 of the gateway, just after the service has charged",
    ...summed([await broken]),
    because: "The client knows nothing. Neither does anybody else: was it charged, or not?",
    expected: { fates: ["no answer"], charges: 3 },
  });
  await gateway.start();
  // Until it lapses, the dead gateway might be a slow one.
  await delay(LEASE_MS);
  show({
    title: "A new gateway, and the client retries",
    ...summed([await pay(crash, 4_200)]),
    because: "Nobody guesses: the operation is held, and does not run a second time.",
    expected: { fates: ["unknown"], charges: 3 },
  });
  await resolve(store, crash, { charge: 3, amount: 4_200 });
  show({
    title: "Somebody looks: it was charged, and says so (semel records resolve)",
    ...summed([await pay(crash, 4_200)]),
    because: "From now on every retry gets the answer that was lost.",
    expected: { fates: ["replayed"], charges: 3 },
  });
  telling.end(payments.charges, isAsExpected);
  return isAsExpected;
}

interface Answer {
  status: number;
  fate: string;
}

async function send(url: string, key: string, amount: number): Promise<Answer> {
  try {
    const response = await fetch(`${url}/payments`, {
      method: "POST",
      headers: { ...CALLER, "content-type": "application/json", "idempotency-key": key },
      body: JSON.stringify({ amount }),
    });
    await response.arrayBuffer();
    const fate = response.headers.get("idempotency-status") ?? "no key";
    return { status: response.status, fate };
  } catch {
    return { status: 0, fate: "no answer" };
  }
}

function summed(answers: Answer[]): Pick<Act, "sent" | "answers"> {
  const found = new Map<string, Act["answers"][number]>();
  for (const answer of answers) {
    const known = found.get(answer.fate);
    if (known) known.times++;
    else found.set(answer.fate, { ...answer, times: 1 });
  }
  return { sent: answers.length, answers: [...found.values()] };
}

/** What `semel records resolve KEY --applied --status 201 --body …` does. */
async function resolve(store: string, key: string, body: object): Promise<void> {
  const open = await openStore({ store }, "administer");
  try {
    const idempotency = new Idempotency({ store: open.store, cache: false, sweep: false });
    const { records } = await idempotency.list({ state: "held" });
    const held = records.find((record) => record.key === key);
    if (!held) throw new Failure("the operation of the demonstration is not held");
    const headers = [["content-type", "application/json"]] as const;
    const result = httpResult({ status: 201, headers, body: Buffer.from(JSON.stringify(body)) });
    await idempotency.resolve({ key, scope: held.scope }, { outcome: "applied", result });
  } finally {
    await open.close();
  }
}

/** Prints, for people or for programs. */
class Telling {
  readonly #isJson: boolean;
  readonly #colors = colorsOf(process.stdout);
  #number = 0;

  constructor(isJson: boolean) {
    this.#isJson = isJson;
  }

  act(act: Act, isAsExpected: boolean): void {
    this.#number++;
    if (this.#isJson) {
      const { expected: _expected, ...shown } = act;
      process.stdout.write(jsonLine({ act: this.#number, ...shown, asExpected: isAsExpected }));
      return;
    }
    const { bold, dim, cyan, red } = this.#colors;
    const answers = act.answers.map(({ status, fate, times }) => {
      const what = status === 0 ? fate : `${status} ${fate}`;
      return `${times > 1 ? `${times} × ` : ""}${cyan(what)}`;
    });
    const charges = `charged so far: ${act.charges}`;
    process.stdout.write(
      `${bold(`${this.#number}. ${act.title}`)}\n   → ${answers.join(", ")}   ${dim(charges)}\n   ${act.because}\n${isAsExpected ? "" : `   ${red("This is not as it should be.")}\n`}\n`,
    );
  }

  end(charges: number, isAsExpected: boolean): void {
    if (this.#isJson)
      return void process.stdout.write(jsonLine({ charges, asExpected: isAsExpected }));
    const { bold } = this.#colors;
    process.stdout.write(
      `${bold(`Three payments, ${charges} charges.`)} Without keys, each retry above would have been another one.\nIn front of your own service: semel gateway --upstream http://127.0.0.1:3000\n`,
    );
  }
}
