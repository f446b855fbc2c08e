// What makes a saboteur of the honest memory store: some of its methods are replaced.

import type { Claim, Ending, RecordId, Store, StoredRecord } from "../../src/store.ts";
import { memoryStore } from "../../src/stores/memory.ts";
import type { StoreHarness } from "../../src/testing/index.ts";

export interface Saboteur {
  readonly name: string;
  open(): StoreHarness;
}

/** The methods that are spoiled, given the honest store and its clock. */
type Sabotage = (honest: Store, now: () => number) => Partial<Store>;

export function openMemory(spoil: Sabotage = () => ({})): StoreHarness {
  let now = Date.now();
  const honest = memoryStore({ clock: { now: () => now } });
  const store = { ...delegate(honest), ...spoil(honest, () => now) };
  const elapse = async (ms: number) => {
    now += ms;
  };
  return { store, elapse, another: async () => store };
}

function delegate(store: Store): Store {
  return {
    name: store.name,
    begin: (claim) => store.begin(claim),
    settle: (ending) => store.settle(ending),
    giveBack: (unused) => store.giveBack!(unused),
    append: (entry) => store.append!(entry),
    renew: (renewal) => store.renew(renewal),
    read: (id) => store.read(id),
    sweep: (limit) => store.sweep(limit),
    resolve: (resolution) => store.resolve(resolution),
    void: (request) => store.void(request),
    delete: (id) => store.delete(id),
    list: (query) => store.list(query),
    stats: () => store.stats(),
  };
}

export function saboteur(name: string, spoil: Sabotage): Saboteur {
  return { name, open: () => openMemory(spoil) };
}

/** Spoils `begin`, given the record that it finds. */
export function onBegin(
  spoil: (
    honest: Store,
    claim: Claim,
    found: StoredRecord | undefined,
    now: () => number,
  ) => ReturnType<Store["begin"]>,
): Sabotage {
  return (honest, now) => ({
    begin: async (claim) => spoil(honest, claim, await honest.read(claim.id), now),
  });
}

/** Spoils `settle`, given the record that it finds. */
export function onSettle(
  spoil: (
    honest: Store,
    ending: Ending,
    found: StoredRecord | undefined,
  ) => ReturnType<Store["settle"]>,
): Sabotage {
  return (honest) => ({
    settle: async (ending) => spoil(honest, ending, await honest.read(ending.id)),
  });
}

export function isLapsed(
  record: StoredRecord | undefined,
): record is StoredRecord & { state: "running" } {
  return record?.state === "running" && record.leaseRemainingMs! <= 0;
}

/** The ids that a store keeps its records under are not those it is asked for. */
export function renaming(rename: (id: RecordId, claim?: { key: string }) => RecordId): Sabotage {
  return (honest) => ({
    begin: (claim) => honest.begin({ ...claim, id: rename(claim.id, claim) }),
    settle: (ending) => honest.settle({ ...ending, id: rename(ending.id) }),
    append: (entry) => honest.append!({ ...entry, id: rename(entry.id) }),
    renew: (renewal) => honest.renew({ ...renewal, id: rename(renewal.id) }),
    read: async (id) => {
      const record = await honest.read(rename(id));
      return record && { ...record, id };
    },
    resolve: (resolution) => honest.resolve({ ...resolution, id: rename(resolution.id) }),
    void: (request) => honest.void({ ...request, id: rename(request.id, request) }),
    delete: (id) => honest.delete(rename(id)),
  });
}
