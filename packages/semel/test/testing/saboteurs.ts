// Stores that are wrong on purpose, each in one way that a real store of this field was or could
// be: the honest memory store with one of its answers or writes spoiled.

import { RecordUnreadable } from "../../src/errors.ts";
import { recordId } from "../../src/key.ts";
import type { Claim, Ending, RecordId, Store } from "../../src/store.ts";
import { memoryStore } from "../../src/stores/memory.ts";
import { LAPSED_RETENTION_MS, LEASE_MS } from "../../src/testing/claims.ts";
import { isLapsed, onBegin, onSettle, renaming, type Saboteur, saboteur } from "./saboteur.ts";

const MONTH_MS = 30 * 86_400_000;

const fencing: readonly Saboteur[] = [
  saboteur(
    "settle does not test the owner",
    onSettle((honest, ending, found) =>
      honest.settle({ ...ending, owner: found?.owner ?? ending.owner }),
    ),
  ),
  saboteur(
    "settle does not test the attempt",
    onSettle((honest, ending, found) =>
      honest.settle({ ...ending, attempt: found?.attempt ?? ending.attempt }),
    ),
  ),
  ...(["complete", "release", "hold"] as const).map((kind) =>
    saboteur(
      `${kind} is blind`,
      onSettle((honest, ending, found) => {
        if (ending.kind !== kind || found === undefined) return honest.settle(ending);
        return honest.settle({ ...ending, attempt: found.attempt, owner: found.owner });
      }),
    ),
  ),
  ...(["owner", "attempt"] as const).flatMap((field) => [
    saboteur(`append does not test the ${field}`, (honest) => ({
      append: async (entry) => {
        const found = await honest.read(entry.id);
        return honest.append!({ ...entry, ...(found && { [field]: found[field] }) });
      },
    })),
    saboteur(`giveBack does not test the ${field}`, (honest) => ({
      giveBack: async (unused) => {
        const found = await honest.read(unused.id);
        return honest.giveBack!({ ...unused, ...(found && { [field]: found[field] }) });
      },
    })),
    saboteur(`renew does not test the ${field}`, (honest) => ({
      renew: async (renewal) => {
        const found = await honest.read(renewal.id);
        return honest.renew({ ...renewal, ...(found && { [field]: found[field] }) });
      },
    })),
  ]),
  saboteur("giveBack releases", (honest) => ({
    giveBack: (unused) => honest.settle({ ...unused, kind: "release" }),
  })),
  saboteur("append refuses a lapsed lease", (honest) => ({
    append: async (entry) =>
      isLapsed(await honest.read(entry.id)) ? { kind: "stale" } : honest.append!(entry),
  })),
  saboteur("append keeps the last entry only", () => {
    const entries = new Map<string, Uint8Array>();
    return {
      append: async (entry) => {
        entries.set(entry.id, entry.bytes);
        return { kind: "settled" };
      },
    };
  }),
  saboteur("append answers before it has tested anything", (honest) => ({
    append: async (entry) => {
      await honest.append!(entry);
      return { kind: "settled" };
    },
  })),
  saboteur("a takeover forgets the journal", (honest) => ({
    read: async (id) => {
      const record = await honest.read(id);
      return record && { ...record, journal: record.attempt > 1 ? null : record.journal };
    },
  })),
  saboteur("a listing reads journals", (honest) => ({
    list: async (query) => {
      const page = await honest.list(query);
      const records = page.records.map((record) => ({ ...record, journal: new Uint8Array(1) }));
      return { ...page, records };
    },
  })),
  saboteur("renew refuses a lapsed lease", (honest) => ({
    renew: async (renewal) =>
      isLapsed(await honest.read(renewal.id)) ? { kind: "stale" } : honest.renew(renewal),
  })),
  saboteur("renew leaves the record's end where it was", (honest) => ({
    renew: async (renewal) => {
      const expiresInMs = (await honest.read(renewal.id))?.expiresInMs;
      const lapsedRetentionMs = expiresInMs ? expiresInMs - renewal.leaseMs : null;
      return honest.renew({ ...renewal, lapsedRetentionMs });
    },
  })),
  saboteur(
    "settle refuses a lapsed lease",
    onSettle(async (honest, ending, found) =>
      isLapsed(found) ? { kind: "stale" } : honest.settle(ending),
    ),
  ),
  saboteur("a second completion by the same attempt overwrites the first", (honest) => {
    const claims = new Map<RecordId, Claim>();
    return {
      begin: (claim) => {
        if (!claims.has(claim.id)) claims.set(claim.id, claim);
        return honest.begin(claim);
      },
      settle: async (ending) => {
        const found = await honest.read(ending.id);
        const isOwn = found?.owner === ending.owner && found.attempt === ending.attempt;
        if (found?.state !== "completed" || !isOwn) return honest.settle(ending);
        await honest.delete(ending.id);
        await honest.begin({ ...claims.get(ending.id)!, owner: ending.owner });
        return honest.settle({ ...ending, attempt: 1 });
      },
    };
  }),
];

const begins: readonly Saboteur[] = [
  saboteur(
    "begin checks, then acts",
    onBegin(async (honest, claim, found) => {
      const answer = await honest.begin(claim);
      if (found !== undefined || answer.kind !== "busy") return answer;
      return { kind: "acquired", attempt: answer.attempt, probe: false };
    }),
  ),
  saboteur(
    "a takeover checks, then acts",
    onBegin(async (honest, claim, found) => {
      const answer = await honest.begin(claim);
      if (!isLapsed(found) || answer.kind !== "busy") return answer;
      return { kind: "acquired", attempt: answer.attempt, probe: false };
    }),
  ),
  saboteur(
    "begin does not know its own claim again",
    onBegin(async (honest, claim, found) => {
      const isOwn = found?.state === "running" && found.owner === claim.owner;
      if (!isOwn || found.fingerprint !== claim.fingerprint) return honest.begin(claim);
      return { kind: "busy", attempt: found.attempt, leaseRemainingMs: found.leaseRemainingMs! };
    }),
  ),
  saboteur(
    "a resent begin is a new attempt",
    onBegin(async (honest, claim, found) => {
      const isOwn = found?.state === "running" && found.owner === claim.owner;
      if (isOwn && found.fingerprint === claim.fingerprint) {
        await honest.settle({ ...found, kind: "release", retentionMs: LEASE_MS });
      }
      return honest.begin(claim);
    }),
  ),
  saboteur(
    "a resent begin keeps the old lease",
    onBegin(async (honest, claim, found) => {
      const isOwn = found?.owner === claim.owner && (found.leaseRemainingMs ?? 0) > 0;
      if (!isOwn || found.fingerprint !== claim.fingerprint) return honest.begin(claim);
      const probe = found.onCrash === "probe" && found.crashes > 0;
      return { kind: "acquired", attempt: found.attempt, probe };
    }),
  ),
  saboteur(
    "the state is looked at before the fingerprint",
    onBegin((honest, claim, found) => {
      if (found === undefined || found.state === "open" || isLapsed(found)) {
        return honest.begin(claim);
      }
      return honest.begin({ ...claim, fingerprint: found.fingerprint || claim.fingerprint });
    }),
  ),
  saboteur(
    "a lapsed lease lifts the fingerprint",
    onBegin((honest, claim, found) =>
      honest.begin(isLapsed(found) ? { ...claim, fingerprint: found.fingerprint } : claim),
    ),
  ),
  saboteur(
    "completion forgets the fingerprint",
    onBegin((honest, claim, found) =>
      honest.begin(
        found?.state === "completed" ? { ...claim, fingerprint: found.fingerprint } : claim,
      ),
    ),
  ),
  saboteur("fingerprints are compared by their first 64 characters", (honest) => ({
    begin: (claim) => honest.begin({ ...claim, fingerprint: claim.fingerprint.slice(0, 64) }),
  })),
  saboteur(
    "a mismatch answers with the wrong fingerprint",
    onBegin(async (honest, claim) => {
      const answer = await honest.begin(claim);
      return answer.kind === "mismatch" ? { ...answer, fingerprint: claim.fingerprint } : answer;
    }),
  ),
  saboteur(
    "attempts start anew after a release",
    onBegin(async (honest, claim, found) => {
      if (found?.state === "open") await honest.delete(claim.id);
      return honest.begin(claim);
    }),
  ),
  saboteur(
    "an open record keeps its old crash policy",
    onBegin((honest, claim, found) =>
      honest.begin(found?.state === "open" ? { ...claim, onCrash: found.onCrash } : claim),
    ),
  ),
  saboteur("requests are never late", (honest) => ({
    begin: ({ refuseLate: _refuseLate, ...claim }) => honest.begin(claim),
  })),
  saboteur(
    "requests are late though their record exists",
    onBegin(async (honest, claim, _found, now) => {
      const { refuseLate } = claim;
      const late = refuseLate && now() - refuseLate.sentAt > refuseLate.ageMaxMs;
      return late ? { kind: "late" } : honest.begin(claim);
    }),
  ),
  saboteur("duplicates of one turn share one answer", (honest) => {
    const asked = new Map<RecordId, ReturnType<Store["begin"]>>();
    return {
      begin: (claim) => {
        const answer = asked.get(claim.id) ?? honest.begin(claim);
        asked.set(claim.id, answer);
        setImmediate(() => asked.delete(claim.id));
        return answer;
      },
    };
  }),
  saboteur("one refused item fails its whole turn", (honest) => {
    let isPoisoned = false;
    return {
      begin: async (claim) => {
        if (!/^[0-9a-f]{32}$/.test(claim.id)) {
          isPoisoned = true;
          setImmediate(() => {
            isPoisoned = false;
          });
        }
        await Promise.resolve();
        if (isPoisoned) throw new RecordUnreadable("no identifier");
        return honest.begin(claim);
      },
    };
  }),
];

const leases: readonly Saboteur[] = [
  {
    name: "leases are judged by the application's clock",
    open() {
      let elapsedMs = 0;
      const store = memoryStore({ clock: { now: () => Date.now() + elapsedMs } });
      const elapse = async (ms: number) => {
        elapsedMs += ms;
      };
      return { store, elapse };
    },
  },
  saboteur(
    "a lease outlives its deadline by an instant",
    onBegin(async (honest, claim, found) => {
      const isRival = found?.fingerprint === claim.fingerprint && found.owner !== claim.owner;
      if (!isRival || found.leaseRemainingMs !== 0) return honest.begin(claim);
      return { kind: "busy", attempt: found.attempt, leaseRemainingMs: 0 };
    }),
  ),
  saboteur(
    "duplicates renew the lease that blocks them",
    onBegin(async (honest, claim, found) => {
      const answer = await honest.begin(claim);
      if (answer.kind !== "busy" || found?.state !== "running") return answer;
      await honest.renew({ ...found, leaseMs: LEASE_MS, lapsedRetentionMs: LAPSED_RETENTION_MS });
      return answer;
    }),
  ),
  saboteur(
    "the finder's crash policy rules",
    onBegin(async (honest, claim, found) => {
      if (!isLapsed(found) || claim.onCrash !== "hold" || found.owner === claim.owner) {
        return honest.begin(claim);
      }
      await honest.settle({ ...found, kind: "hold", reason: "lease-lapsed", retentionMs: null });
      return honest.begin(claim);
    }),
  ),
  saboteur(
    "everything lapsed is run again",
    onBegin(async (honest, claim, found) => {
      if (!isLapsed(found) || found.onCrash !== "hold") return honest.begin(claim);
      await honest.settle({ ...found, kind: "release", retentionMs: LEASE_MS });
      return honest.begin(claim);
    }),
  ),
  saboteur("crashes are not counted", (honest) => ({
    begin: (claim) => honest.begin({ ...claim, attemptsMax: Number.MAX_SAFE_INTEGER }),
  })),
  saboteur("one crash more than allowed", (honest) => ({
    begin: (claim) => honest.begin({ ...claim, attemptsMax: claim.attemptsMax + 1 }),
  })),
  saboteur("releases count as crashes", (honest) => {
    const releases = new Map<RecordId, number>();
    return {
      settle: (ending) => {
        if (ending.kind === "release") {
          releases.set(ending.id, (releases.get(ending.id) ?? 0) + 1);
        }
        return honest.settle(ending);
      },
      begin: async (claim) => {
        if ((releases.get(claim.id) ?? 0) < claim.attemptsMax) return honest.begin(claim);
        return { kind: "held", attempt: 1, reason: "attempts-exhausted" };
      },
    };
  }),
  ...([true, false] as const).map((probe) =>
    saboteur(
      probe ? "the first attempt is a probe already" : "a takeover is never a probe",
      onBegin(async (honest, claim) => {
        const answer = await honest.begin(claim);
        if (answer.kind !== "acquired") return answer;
        return { ...answer, probe: probe && claim.onCrash === "probe" };
      }),
    ),
  ),
];

const keeping: readonly Saboteur[] = [
  saboteur("nothing expires in time", (honest) => ({
    settle: (ending) =>
      honest.settle({ ...ending, retentionMs: ending.retentionMs! * 1_000 } as Ending),
  })),
  saboteur("records outlive their retention by an instant", (honest) => ({
    settle: (ending) =>
      honest.settle({ ...ending, retentionMs: ending.retentionMs! + 1 } as Ending),
  })),
  saboteur("a record is expired only once it is swept", (honest) => {
    const results = new Map<RecordId, Uint8Array>();
    return {
      settle: (ending) => {
        if (ending.kind === "complete") results.set(ending.id, ending.result.slice());
        return honest.settle(ending);
      },
      begin: async (claim) => {
        const result = results.get(claim.id);
        if (result === undefined || (await honest.read(claim.id))) return honest.begin(claim);
        return { kind: "done", attempt: 1, result, expiresInMs: 1 };
      },
      delete: (id) => {
        results.delete(id);
        return honest.delete(id);
      },
    };
  }),
  saboteur("held records are forgotten after a month", (honest) => ({
    begin: (claim) =>
      honest.begin({ ...claim, heldRetentionMs: claim.heldRetentionMs ?? MONTH_MS }),
    settle: (ending) => honest.settle({ ...ending, retentionMs: ending.retentionMs ?? MONTH_MS }),
  })),
  saboteur("lapsed records are all forgotten after a month", (honest) => ({
    begin: (claim) =>
      honest.begin({ ...claim, lapsedRetentionMs: claim.lapsedRetentionMs ?? MONTH_MS }),
  })),
  saboteur("retention is counted from begin", (honest, now) => {
    const begunAt = new Map<RecordId, number>();
    return {
      begin: (claim) => {
        begunAt.set(claim.id, now());
        return honest.begin(claim);
      },
      settle: (ending) => {
        const sinceBegin = now() - (begunAt.get(ending.id) ?? now());
        const retentionMs = ending.retentionMs! - sinceBegin;
        return honest.settle({ ...ending, retentionMs } as Ending);
      },
    };
  }),
  saboteur("the caller's own bytes are kept and given out", (honest) => {
    const results = new Map<RecordId, Uint8Array>();
    return {
      settle: async (ending) => {
        const answer = await honest.settle(ending);
        const isKept = ending.kind === "complete" && answer.kind === "settled";
        if (isKept) results.set(ending.id, ending.result);
        return answer;
      },
      begin: async (claim) => {
        const answer = await honest.begin(claim);
        if (answer.kind !== "done") return answer;
        return { ...answer, result: results.get(claim.id) ?? answer.result };
      },
    };
  }),
  saboteur("results are stored as text", (honest) => ({
    settle: (ending) => {
      if (ending.kind !== "complete") return honest.settle(ending);
      const result = new TextEncoder().encode(new TextDecoder().decode(ending.result));
      return honest.settle({ ...ending, result });
    },
  })),
  saboteur("the reason of a hold is cut short", (honest) => ({
    settle: (ending) =>
      honest.settle(ending.kind === "hold" ? { ...ending, reason: "held" } : ending),
  })),
  saboteur("a sweep ignores its limit", (honest) => ({ sweep: () => honest.sweep(1_000_000) })),
  saboteur("a sweep says that it filled its limit", (honest) => ({
    sweep: async (limit) => {
      await honest.sweep(limit);
      return limit;
    },
  })),
  saboteur("a sweep removes completed records that still live", (honest) => ({
    sweep: async (limit) => {
      const { records } = await honest.list({ state: "completed", limit: 1 });
      for (const { id } of records) await honest.delete(id);
      return honest.sweep(limit);
    },
  })),
  saboteur(
    "ids are cut to their first digit",
    renaming((id) => `${id[0]}${"0".repeat(31)}`),
  ),
  saboteur("scopes share their keys", (honest) => {
    const names = new Map<RecordId, RecordId>();
    const rename = (id: RecordId, claim?: { key: string }) => {
      if (claim) names.set(id, recordId("", claim.key));
      return names.get(id) ?? id;
    };
    return renaming(rename)(honest, () => 0);
  }),
];

const administration: readonly Saboteur[] = [
  saboteur("a void of what never began keeps no tombstone", (honest) => ({
    void: async (request) =>
      (await honest.read(request.id)) ? honest.void(request) : { kind: "voided" },
  })),
  saboteur("a void ends a live attempt", (honest) => ({
    void: async (request) => {
      const found = await honest.read(request.id);
      if (found) await honest.settle({ ...found, kind: "release", retentionMs: LEASE_MS });
      return honest.void(request);
    },
  })),
  saboteur("a void replaces a result", (honest) => ({
    void: async (request) => {
      const found = await honest.read(request.id);
      if (found?.state === "completed") await honest.delete(request.id);
      return honest.void(request);
    },
  })),
  saboteur("a delete ends a live attempt", (honest) => ({
    delete: async (id) => {
      const found = await honest.read(id);
      if (found) await honest.settle({ ...found, kind: "release", retentionMs: LEASE_MS });
      return honest.delete(id);
    },
  })),
  saboteur("a resolution ends a live attempt", (honest) => ({
    resolve: async (resolution) => {
      const found = await honest.read(resolution.id);
      if (found) {
        await honest.settle({ ...found, kind: "hold", reason: "resolved", retentionMs: null });
      }
      return honest.resolve(resolution);
    },
  })),
  saboteur("lapsed records cannot be resolved", (honest) => ({
    resolve: async (resolution) =>
      isLapsed(await honest.read(resolution.id))
        ? { kind: "refused", state: "running" }
        : honest.resolve(resolution),
  })),
  saboteur("a listing loses the last record of each page", (honest) => ({
    list: async (query) => {
      const page = await honest.list(query);
      return page.cursor === undefined ? page : { ...page, records: page.records.slice(0, -1) };
    },
  })),
  saboteur("a listing ignores the scope", (honest) => ({
    list: ({ scope: _scope, ...query }) => honest.list(query),
  })),
  saboteur("a listing shows results", (honest) => ({
    list: async (query) => {
      const page = await honest.list(query);
      const records = page.records.map(async (record) => (await honest.read(record.id)) ?? record);
      return { ...page, records: await Promise.all(records) };
    },
  })),
  saboteur("statistics count lapsed records as running", (honest) => ({
    stats: async () => {
      const stats = await honest.stats();
      const { records } = await honest.list({ state: "held", limit: 1_000 });
      const lapsed = records.filter((record) => record.state === "running").length;
      const { running, held } = stats.states;
      const states = { ...stats.states, running: running + lapsed, held: held - lapsed };
      return { ...stats, states };
    },
  })),
];

export const memorySaboteurs: readonly Saboteur[] = [
  ...fencing,
  ...begins,
  ...leases,
  ...keeping,
  ...administration,
];
