// Options of an idempotent tool, checked once when it is made.

import { OPERATION_OPTIONS, type OperationOptions } from "../engine/policy.ts";
import { InvalidOption } from "../errors.ts";
import type { FingerprintSelection } from "../fingerprint.ts";
import { assertBoolean, assertKnownOptions, assertOneOf, shown } from "../options.ts";
import type { ToolExtra } from "./types.ts";

/** Options of {@link idempotentTool}. */
export interface ToolOptions<Args, Extra extends ToolExtra, Result>
  extends OperationOptions<Result> {
  /** The tool's name. Two tools never share a key. */
  tool: string;
  /**
   * On whose behalf the call is made, such as the account in `extra.authInfo`. `"shared"` says that
   * all callers share one space of keys, as they do on stdio, where there is one. There is no
   * default, because the wrong one leaks results. A function that returns nothing refuses the call.
   */
  scope: "shared" | ((extra: Extra, args: Args) => ScopeAnswer | Promise<ScopeAnswer>);
  /**
   * Where the key is: the name of an argument, or a function. Without a key there,
   * `_meta["semel/idempotencyKey"]` of the request is looked at.
   *
   * @default "idempotencyKey"
   */
  key?: string | ((args: Args, extra: Extra) => string | undefined) | undefined;
  /**
   * Makes a key of session and arguments for a call that carries none. Two equal calls that are both
   * meant become one, for as long as `retention`; a client that connects anew is another session.
   *
   * @default no key is made
   */
  derive?: "session-and-arguments" | undefined;
  /** Refuses a call without a key; `false` runs it unprotected. @default true */
  required?: boolean | undefined;
  /** Which arguments count. The one that is the key never does. @default all others */
  fingerprint?: FingerprintSelection<Partial<Args>> | undefined;
  /**
   * Whether a refusal may carry structured content. The output schema of a tool binds that of its
   * errors too, in the SDK's client: say `false` for a tool that has one. `_meta["semel/error"]`
   * carries the same either way.
   *
   * @default true
   */
  structuredErrors?: boolean | undefined;
}

type ScopeAnswer = string | null | undefined;

const OPTIONS = [
  ...OPERATION_OPTIONS,
  "tool",
  "scope",
  "key",
  "derive",
  "required",
  "fingerprint",
  "structuredErrors",
];

type Unchecked = Partial<
  Record<"tool" | "scope" | "key" | "derive" | "required" | "structuredErrors", unknown>
>;

/** @throws {InvalidOption} */
export function assertToolOptions(options: Unchecked): void {
  assertKnownOptions(options, OPTIONS, "idempotentTool()");
  const { tool, scope, key, derive, required, structuredErrors } = options;
  if (typeof tool !== "string" || !/^\S+$/.test(tool)) {
    throw new InvalidOption(`\`tool\` must be the tool's name, without spaces; got ${shown(tool)}`);
  }
  if (scope !== "shared" && typeof scope !== "function") {
    throw new InvalidOption(
      '`scope` must be given: a function of `extra` that names the account whose call it is, or "shared" when all callers share one space of keys',
    );
  }
  if (key !== undefined && typeof key !== "function" && (typeof key !== "string" || key === "")) {
    throw new InvalidOption(
      `\`key\` must be the name of an argument or a function of the arguments, got ${shown(key)}`,
    );
  }
  if (derive !== undefined) assertOneOf(derive, ["session-and-arguments"], "derive");
  assertBoolean(required, "required");
  assertBoolean(structuredErrors, "structuredErrors");
}
