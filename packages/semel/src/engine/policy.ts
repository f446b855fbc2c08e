// What the user chose, checked once and turned into the numbers that the engine works with. Every
// default of the specification (§11) stands here.

import { type Duration, durationMs } from "../duration.ts";
import { InvalidOption } from "../errors.ts";
import { assertInteger, assertKnownOptions, assertOneOf } from "../options.ts";
import type { CrashPolicy } from "../store.ts";
import type { Operation } from "./attempt.ts";

/** What a probe found out about an attempt that crashed. */
export type ProbeVerdict<Value = unknown> =
  /** It was applied, and this is its result: the operation completes with it. */
  | { outcome: "applied"; value: Value }
  /** It was not applied: the handler runs now. */
  | { outcome: "not-applied" }
  /** Still nobody knows: the operation is held. */
  | { outcome: "unknown" };

/** Asks the outside world whether a crashed attempt was applied. It must change nothing. */
export type Probe<Value = unknown> = (operation: Operation) => Promise<ProbeVerdict<Value>>;

/** Options that hold for an operation; each may be set for all in the constructor. */
export interface OperationOptions<Value = unknown> {
  /** How long a finished record is kept, from completion. @default "24h" */
  retention?: Duration | undefined;
  /** How long an attempt is exclusive without a heartbeat. @default "30s" */
  lease?: Duration | undefined;
  /** How long to wait for a running first attempt before `OperationBusy`. @default 0 */
  wait?: Duration | undefined;
  /**
   * After a handler throws: `"release"` lets it run again, `"hold"` waits for an administrator,
   * `"store"` makes the failure the result. @default "release"
   */
  onError?: "release" | "hold" | "store" | undefined;
  /**
   * When an attempt's lease lapsed and nobody knows what it did: `"hold"` runs it no more until
   * resolved, `"rerun"` runs it again, a probe finds out. @default "hold"
   */
  onCrash?: "hold" | "rerun" | Probe<Value> | undefined;
  /** Crashed attempts after which an operation is held, whatever its policy. @default 10 */
  attemptsMax?: number | undefined;
  /**
   * Refuses a request that was first sent before keys could have been forgotten (its time comes
   * from `firstSentAt` or a UUIDv7 key): older than the retention less this allowance for the
   * difference of clocks. `true` allows 5 minutes. @default false
   */
  refuseLate?: boolean | { skew: Duration } | undefined;
  /** A bound for held records, otherwise kept until resolved. @default none */
  heldRetention?: Duration | undefined;
}

export const OPERATION_OPTIONS = [
  "retention",
  "lease",
  "wait",
  "onError",
  "onCrash",
  "attemptsMax",
  "refuseLate",
  "heldRetention",
] as const;

/** {@link OperationOptions}, checked and in milliseconds. */
export interface Policy {
  readonly retentionMs: number;
  /** How long an operation is kept that was released, and may run again. */
  readonly openRetentionMs: number;
  readonly leaseMs: number;
  readonly waitMs: number;
  readonly onError: "release" | "hold" | "store";
  readonly onCrash: CrashPolicy;
  readonly probe: Probe | undefined;
  readonly attemptsMax: number;
  /** Age from which an unknown request is refused; `undefined`: never. */
  readonly lateAfterMs: number | undefined;
  readonly heldRetentionMs: number | null;
  /** SM-15: how long a lapsed record stays after its lease. */
  readonly lapsedRetentionMs: number | null;
}

const DEFAULTS: Policy = {
  retentionMs: 86_400_000,
  openRetentionMs: 86_400_000,
  leaseMs: 30_000,
  waitMs: 0,
  onError: "release",
  onCrash: "hold",
  probe: undefined,
  attemptsMax: 10,
  lateAfterMs: undefined,
  heldRetentionMs: null,
  lapsedRetentionMs: null,
};

/** A shorter lease would lapse between two heartbeats of a busy process. */
const LEASE_MS_MIN = 10;
const SKEW_MS = 300_000;

/**
 * Checks options and lays them over a policy.
 *
 * @throws {InvalidOption}
 */
export function policyOf(options: OperationOptions, base: Policy = DEFAULTS): Policy {
  if (!OPERATION_OPTIONS.some((name) => options[name] !== undefined)) return base;
  const { retention, lease, wait, onError, onCrash, attemptsMax, heldRetention } = options;
  if (onError !== undefined) assertOneOf(onError, ["release", "hold", "store"], "onError");
  if (onCrash !== undefined && typeof onCrash !== "function") {
    assertOneOf(onCrash, ["hold", "rerun"], "onCrash");
  }
  if (attemptsMax !== undefined) assertInteger(attemptsMax, "attemptsMax", 1, 1_000_000);
  const chosen = {
    retentionMs:
      retention === undefined ? base.retentionMs : durationMs(retention, "retention", { minMs: 1 }),
    leaseMs:
      lease === undefined ? base.leaseMs : durationMs(lease, "lease", { minMs: LEASE_MS_MIN }),
    waitMs: wait === undefined ? base.waitMs : durationMs(wait, "wait"),
    onError: onError ?? base.onError,
    onCrash: crashPolicyOf(onCrash) ?? base.onCrash,
    probe: onCrash === undefined ? base.probe : typeof onCrash === "function" ? onCrash : undefined,
    attemptsMax: attemptsMax ?? base.attemptsMax,
    heldRetentionMs:
      heldRetention === undefined
        ? base.heldRetentionMs
        : durationMs(heldRetention, "heldRetention", { minMs: 1 }),
  };
  return {
    ...chosen,
    openRetentionMs: chosen.retentionMs,
    lateAfterMs: lateAfterMs(options.refuseLate, base, chosen.retentionMs),
    lapsedRetentionMs: chosen.onCrash === "rerun" ? chosen.retentionMs : chosen.heldRetentionMs,
  };
}

function crashPolicyOf(onCrash: OperationOptions["onCrash"]): CrashPolicy | undefined {
  return typeof onCrash === "function" ? "probe" : onCrash;
}

function lateAfterMs(
  refuseLate: OperationOptions["refuseLate"],
  base: Policy,
  retentionMs: number,
): number | undefined {
  if (refuseLate === false) return undefined;
  if (refuseLate === undefined && base.lateAfterMs === undefined) return undefined;
  const skewMs = skewOf(refuseLate, base);
  if (skewMs < retentionMs) return retentionMs - skewMs;
  // Every request would be late.
  throw new InvalidOption(
    `\`refuseLate\` allows for ${skewMs} ms between clocks, which must be less than \`retention\` (${retentionMs} ms); set \`refuseLate: { skew }\``,
  );
}

function skewOf(refuseLate: true | { skew: Duration } | undefined, base: Policy): number {
  if (refuseLate === true) return SKEW_MS;
  if (refuseLate === undefined) return base.retentionMs - (base.lateAfterMs ?? 0);
  assertKnownOptions(refuseLate, ["skew"], "`refuseLate`");
  return durationMs(refuseLate.skew, "refuseLate.skew");
}
