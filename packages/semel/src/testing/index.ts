// The testing kit (`semel/testing`): the conformance suite of stores, and a store that goes wrong
// on purpose.

export { modelCase } from "./cases/model.ts";
export {
  type Fault,
  type FaultyStore,
  faultyStore,
  type StoreMethod,
} from "./faulty-store.ts";
export type { StoreCapability, StoreCase, StoreHarness } from "./store-harness.ts";
export { storeCases } from "./store-suite.ts";
