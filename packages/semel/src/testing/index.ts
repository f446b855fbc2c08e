// The testing kit (`semel/testing`): the conformance suite of stores, a store that goes wrong on
// purpose, and a clock that tests move.

export { modelCase } from "./cases/model.ts";
export { enqueueCases, queueCases } from "./cases/queue.ts";
export {
  type EffectOptions,
  EXPLORATION_FAULTS,
  type ExplorationFault,
  type ExplorationOptions,
  type ExplorationReport,
  type ExploredProcess,
  type InjectedFault,
  type Violation,
} from "./explore/exploration.ts";
export { type ExploredRun, explore } from "./explore/explore.ts";
export { type KillableProcess, killableProcess } from "./explore/killable.ts";
export { exploreProcesses, type ProcessExplorationOptions } from "./explore/processes.ts";
export {
  type FaultProxy,
  type FaultProxyOptions,
  faultProxy,
  PROXY_FAULTS,
  type ProxyFault,
  type ProxyFaultKind,
  type ProxyMessage,
  type Side,
  type WireProtocol,
} from "./fault-proxy.ts";
export {
  type Fault,
  type FaultyStore,
  faultyStore,
  type StoreMethod,
} from "./faulty-store.ts";
export { type ManualClock, manualClock } from "./manual-clock.ts";
export type { StoreCapability, StoreCase, StoreHarness } from "./store-harness.ts";
export { storeCases } from "./store-suite.ts";
