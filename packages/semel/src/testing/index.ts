// The testing kit (`semel/testing`): the conformance suite of stores, a store that goes wrong on
// purpose, and a clock that tests move.

export { modelCase } from "./cases/model.ts";
export {
  type Fault,
  type FaultyStore,
  faultyStore,
  type StoreMethod,
} from "./faulty-store.ts";
export { type ManualClock, manualClock } from "./manual-clock.ts";
export type { StoreCapability, StoreCase, StoreHarness } from "./store-harness.ts";
export { storeCases } from "./store-suite.ts";
