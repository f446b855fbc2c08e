// The conformance suite that every store passes (ST-8): zombies, lapsed leases, lost
// acknowledgements, races, bounds and random lives, each case a sentence about behaviour. It uses
// `node:assert` alone, so that any test runner can run it.

import { administrationCases } from "./cases/administration.ts";
import { beginCases } from "./cases/begin.ts";
import { boundsCases } from "./cases/bounds.ts";
import { damageCases } from "./cases/damage.ts";
import { expiryCases } from "./cases/expiry.ts";
import { faultCases } from "./cases/faults.ts";
import { fencingCases } from "./cases/fencing.ts";
import { journalCases } from "./cases/journal.ts";
import { leaseCases } from "./cases/lease.ts";
import { listingCases } from "./cases/listing.ts";
import { modelCases } from "./cases/model.ts";
import { raceCases } from "./cases/races.ts";
import { settleCases } from "./cases/settle.ts";
import { sweepCases } from "./cases/sweep.ts";
import { unusedCases } from "./cases/unused.ts";
import type { StoreCase } from "./store-harness.ts";

/**
 * Every behaviour that a store must have. Each case takes a harness of its own, with an empty
 * store; cases of one process run one after the other.
 *
 * @example
 * for (const storeCase of storeCases) {
 *   test(storeCase.name, async () => {
 *     const harness = await open();
 *     try {
 *       await storeCase.run(harness);
 *     } finally {
 *       await harness.close?.();
 *     }
 *   });
 * }
 */
export const storeCases: readonly StoreCase[] = [
  ...beginCases,
  ...settleCases,
  ...fencingCases,
  ...unusedCases,
  ...journalCases,
  ...leaseCases,
  ...expiryCases,
  ...sweepCases,
  ...boundsCases,
  ...administrationCases,
  ...listingCases,
  ...faultCases,
  ...raceCases,
  ...damageCases,
  ...modelCases,
];
