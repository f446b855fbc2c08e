// Every case, in the order in which they run: what the draft says first.

import type { Case } from "./case.ts";
import { CONCURRENCY_CASES } from "./cases/concurrency.ts";
import { CONNECTION_CASES } from "./cases/connections.ts";
import { FAILURE_CASES } from "./cases/failures.ts";
import { ISOLATION_CASES } from "./cases/isolation.ts";
import { KEY_CASES } from "./cases/keys.ts";
import { PAYLOAD_CASES } from "./cases/payloads.ts";
import { REFUSAL_CASES } from "./cases/refusals.ts";
import { REPLAY_CASES } from "./cases/replays.ts";

const ALL: readonly Case[] = [
  ...REPLAY_CASES,
  ...PAYLOAD_CASES,
  ...CONCURRENCY_CASES,
  ...REFUSAL_CASES,
  ...KEY_CASES,
  ...ISOLATION_CASES,
  ...CONNECTION_CASES,
  ...FAILURE_CASES,
];

export const CASES: readonly Case[] = [
  ...ALL.filter(({ tier }) => tier === "draft"),
  ...ALL.filter(({ tier }) => tier === "careful"),
];
