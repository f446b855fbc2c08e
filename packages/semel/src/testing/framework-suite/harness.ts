// What the conformance suite of frameworks asks of a framework under test, and what a case of it is.

import type { Idempotency } from "../../engine/idempotency.ts";
import type { HttpOptions } from "../../http/options.ts";
import type { Store } from "../../store.ts";
import type { Stage } from "./stage.ts";

/** What not every framework can express. */
export type FrameworkFeature =
  /** A handler can destroy its connection. */
  | "connections"
  /** A handler can fail after it has answered. */
  | "failing-after-answer"
  /** A handler can send an informational response, such as 103, before its answer. */
  | "informational"
  /** The test can move the store's clock. */
  | "moving-clock"
  /** A router can be mounted under a prefix. */
  | "mounting"
  /** Middleware outside of Semel's can change how a `node:http` response is written. */
  | "outer-middleware"
  /** The framework has body parsers that leave a parsed body on the request. */
  | "parsers"
  /** A handler chooses the reason phrase of its status line. */
  | "reason"
  /** Handlers can read trailers and send them. */
  | "trailers";

/** Reads a header of the framework's own request. */
export type FieldOf<Request> = (request: Request, name: string) => string | undefined;

/** The options of a route, whatever the framework's request is. */
export type SuiteOptions = <Request>(field: FieldOf<Request>) => Partial<HttpOptions<Request>>;

/** What a framework is to serve. */
export interface ServeSetup {
  idempotency: Idempotency;
  options: SuiteOptions;
  stage: Stage;
  /** Where the framework's parsers of JSON and forms stand: before Semel, after it, or nowhere. */
  parsers: "none" | "before" | "after";
  /** Runs outside of everything else, with the `node:http` request and response. */
  outside: ((request: object, response: object) => void) | undefined;
}

export interface Served {
  port: number;
  /** Stops listening and resolves when every connection has ended. */
  close(): Promise<void>;
}

/** A framework under test. */
export interface FrameworkHarness {
  readonly name: string;
  /** What it cannot express, each with the reason; cases that need it are skipped with it. */
  readonly cannot: Partial<Record<FrameworkFeature, string>>;
  /**
   * Serves every route of the catalogue at `/<route>` for every method, and with the feature
   * `mounting` also at `/one/<route>` and `/two/<route>`, on 127.0.0.1.
   */
  serve(setup: ServeSetup): Promise<Served>;
  /** An empty store; the memory store when absent. */
  openStore?(): Promise<{ store: Store; close(): Promise<void> }>;
}

/** One behaviour that every framework's adapter has. */
export interface FrameworkCase {
  /** A sentence, with the requirement that it comes from. */
  readonly name: string;
  readonly needs: readonly FrameworkFeature[];
  /** Rejects with an `AssertionError` when the adapter behaves otherwise. */
  run(harness: FrameworkHarness): Promise<void>;
}

export function frameworkCase(
  name: string,
  run: (harness: FrameworkHarness) => Promise<void>,
  needs: readonly FrameworkFeature[] = [],
): FrameworkCase {
  return { name, needs, run };
}

/** Why a case is skipped for a framework, if it is. */
export function reasonToSkip(
  { needs }: FrameworkCase,
  { cannot }: FrameworkHarness,
): string | undefined {
  const missing = needs.find((feature) => cannot[feature] !== undefined);
  return missing && cannot[missing];
}
