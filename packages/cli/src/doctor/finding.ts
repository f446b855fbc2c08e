// What `semel doctor` finds out about a store.

export interface Finding {
  /** What was looked at, such as `durability`. */
  check: string;
  /** `mend`: has to be changed; `note`: somebody should know; `ok`. */
  verdict: "ok" | "note" | "mend";
  /** What was found, in a few words. */
  found: string;
  /** What to do about it. */
  remedy?: string;
}

export interface Diagnosis {
  findings: Finding[];
  /** What can still go wrong with this configuration, a sentence each. */
  windows: string[];
}

export function ok(check: string, found: string): Finding {
  return { check, verdict: "ok", found };
}

export function note(check: string, found: string, remedy?: string): Finding {
  return { check, verdict: "note", found, ...(remedy !== undefined && { remedy }) };
}

export function mend(check: string, found: string, remedy: string): Finding {
  return { check, verdict: "mend", found, remedy };
}

/** Clocks are asked one after the other: half of the time that took is not known to either. */
const CLOCK_NOTE_MS = 5_000;

/** Compares this machine's clock with the server's, in milliseconds since 1970. */
export async function clockFinding(
  ask: () => Promise<number>,
): Promise<{ finding: Finding; serverNow: number }> {
  const before = Date.now();
  const serverNow = await ask();
  const after = Date.now();
  const aheadMs = Math.round((before + after) / 2 - serverNow);
  const found = `this machine is ${Math.abs(aheadMs)} ms ${aheadMs < 0 ? "behind" : "ahead of"} the server, give or take ${Math.ceil((after - before) / 2)} ms`;
  if (Math.abs(aheadMs) < CLOCK_NOTE_MS) return { finding: ok("clock", found), serverNow };
  const remedy =
    "Leases and expiry are judged by the server and stay right; Idempotency-Expires and refuseLate are off by as much. Synchronise the clocks (NTP)";
  return { finding: note("clock", found, remedy), serverNow };
}
