// The conformance suite that every framework's adapter passes, through real connections: every kind
// of answer, key, body, failure and departure, each case a sentence about behaviour. It uses
// `node:assert` alone, so that any test runner can run it.

import { answerCases } from "./cases/answers.ts";
import { bodyCases } from "./cases/bodies.ts";
import { concurrencyCases } from "./cases/concurrency.ts";
import { connectionCases } from "./cases/connections.ts";
import { departureCases } from "./cases/departures.ts";
import { durabilityCases } from "./cases/durability.ts";
import { edgeCases } from "./cases/edges.ts";
import { fingerprintCases } from "./cases/fingerprints.ts";
import { keyCases } from "./cases/keys.ts";
import { observationCases } from "./cases/observation.ts";
import { policyCases } from "./cases/policy.ts";
import { refusalCases } from "./cases/refusals.ts";
import type { FrameworkCase } from "./harness.ts";

export {
  type ActiveRoute,
  ANSWERS,
  type Answer,
  type AnswerRoute,
  DRIP,
  EVENTS,
  EVERY_BYTE,
  GIVEN,
  patterned,
  type Route,
  SENT_HEADERS,
} from "./catalogue.ts";
export { field, json, RawClient, type Reply, requestText, type Sending, send } from "./client.ts";
export {
  type FetchRoute,
  type FetchRouteHandler,
  fetchHandlers,
  headersOf,
  streamOf,
} from "./fetch-handlers.ts";
export {
  type FieldOf,
  type FrameworkCase,
  type FrameworkFeature,
  type FrameworkHarness,
  reasonToSkip,
  type Served,
  type ServeSetup,
  type SuiteOptions,
} from "./harness.ts";
export { counted, heedSignal, type NodeRouteHandler, nodeHandlers } from "./node-handlers.ts";
export { freshKey, type Scene, type SceneSetup, withScene } from "./scene.ts";
export { Stage } from "./stage.ts";
export { inTime, until } from "./waiting.ts";

/**
 * Every behaviour that an adapter must have. Cases of one process run one after the other.
 *
 * @example
 * for (const frameworkCase of frameworkCases) {
 *   const reason = reasonToSkip(frameworkCase, harness);
 *   if (reason === undefined) test(frameworkCase.name, () => frameworkCase.run(harness));
 * }
 */
export const frameworkCases: readonly FrameworkCase[] = [
  ...answerCases,
  ...edgeCases,
  ...keyCases,
  ...fingerprintCases,
  ...refusalCases,
  ...policyCases,
  ...concurrencyCases,
  ...durabilityCases,
  ...departureCases,
  ...bodyCases,
  ...connectionCases,
  ...observationCases,
];
