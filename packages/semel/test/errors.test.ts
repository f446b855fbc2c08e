// One family of errors: literal codes, what to do next, and causes (EN-12).

import { describe, expect, expectTypeOf, test } from "vitest";
import { NoAnswer } from "../src/client/errors.ts";
import type { ErrorCode, Retry } from "../src/errors.ts";
import * as errors from "../src/errors.ts";

const cause = new Error("cause");
const UNANSWERED = {
  method: "POST",
  url: "https://shop.example/charges",
  key: "k",
  firstSent: "Sun, 22 Nov 2026 12:00:00 GMT",
  attempts: 2,
  gaveUp: "attempts",
} as const;

/** One of every class, with the code and the advice that EN-12 and HTTP-11 ask for. */
const ERRORS: [errors.SemelError, ErrorCode, Retry][] = [
  [new errors.OperationBusy(5), "operation-in-progress", "same-key"],
  [new errors.KeyReused(), "key-reused", "new-key"],
  [new errors.OperationHeld("why"), "outcome-unknown", "never"],
  [new errors.OperationVoid(), "operation-void", "new-key"],
  [new errors.KeyExpired(), "key-expired", "never"],
  [new errors.AttemptSuperseded(), "attempt-superseded", "same-key"],
  [new errors.StoreUnavailable("m", { cause }), "store-unavailable", "same-key"],
  [new errors.StoreFull("m", { cause }), "store-full", "same-key"],
  [new errors.StoreUnusable("m", { cause }), "store-unusable", "never"],
  [new errors.RecordUnreadable("m", { cause }), "record-unreadable", "never"],
  [new errors.KeyInvalid("m"), "key-invalid", "new-key"],
  [new errors.KeyMissing("m"), "key-missing", "new-key"],
  [new errors.ScopeMissing("m"), "scope-missing", "never"],
  [new errors.BodyTooLarge(5), "body-too-large", "never"],
  [new errors.BodyIncomplete({ cause }), "body-incomplete", "same-key"],
  [new errors.PayloadInvalid("m", { cause }), "payload-invalid", "never"],
  [new errors.ResultNotStored(), "result-not-stored", "never"],
  [new errors.NotSerializable("m", { cause }), "not-serializable", "never"],
  [new errors.OperationFailed(cause), "operation-failed", "new-key"],
  [new errors.NotApplied(cause), "not-applied", "same-key"],
  [new errors.StepInvalid("m"), "step-invalid", "never"],
  [new errors.StepsDiverged("m"), "steps-diverged", "never"],
  [new errors.EffectInvalid("m"), "effect-invalid", "never"],
  [new NoAnswer(UNANSWERED, cause), "no-answer", "same-key"],
  [new errors.InvalidOption("m"), "option-invalid", "never"],
  [new errors.Closed(), "closed", "same-key"],
];
const WITH_CAUSE = new Set<ErrorCode>([
  "store-unavailable",
  "store-full",
  "store-unusable",
  "record-unreadable",
  "body-incomplete",
  "payload-invalid",
  "not-serializable",
  "operation-failed",
  "not-applied",
  "no-answer",
]);

describe("errors (EN-12)", () => {
  for (const [error, code, retry] of ERRORS) {
    test(`${error.constructor.name} has the code "${code}" and the advice "${retry}"`, () => {
      expect(error).toBeInstanceOf(errors.SemelError);
      expect(error).toBeInstanceOf(Error);
      expect(error.code).toBe(code);
      expect(error.retry).toBe(retry);
      expect(error.name).toBe(error.constructor.name);
      expect(error.message).not.toBe("");
      expect(errors.isSemelError(error)).toBe(true);
      expect(error.cause).toBe(WITH_CAUSE.has(code) ? cause : undefined);
    });
  }

  test("every class and every code stands in the list above", () => {
    const classes = Object.values(errors).filter(
      (value): value is typeof errors.KeyReused =>
        typeof value === "function" && value.prototype instanceof errors.SemelError,
    );
    expect(new Set(ERRORS.map(([error]) => error.constructor))).toEqual(
      new Set([...classes, NoAnswer]),
    );
    expect(ERRORS.map(([, code]) => code).sort()).toEqual(Object.keys(errors.ERROR_CODES).sort());
  });

  test("codes are literal types", () => {
    expectTypeOf(new errors.KeyReused().code).toEqualTypeOf<"key-reused">();
    expectTypeOf(new errors.KeyReused().retry).toEqualTypeOf<Retry>();
  });

  test("the guard's codes tell the classes apart", () => {
    const error: unknown = new errors.OperationBusy(5);
    if (!errors.isSemelError(error)) throw error;
    expectTypeOf(error.code).toEqualTypeOf<ErrorCode>();
    expectTypeOf(error.retry).toEqualTypeOf<Retry>();
    expectTypeOf(error).toExtend<errors.SemelError>();
    if (error.code !== "operation-in-progress") throw error;
    expectTypeOf(error).toEqualTypeOf<errors.OperationBusy>();
    expect(error.retryAfterMs).toBe(5);
    const reasonOf = (held: errors.AnySemelError) =>
      held.code === "outcome-unknown" ? held.reason : undefined;
    expect(reasonOf(new errors.OperationHeld("why"))).toBe("why");
  });

  test("are recognised across copies of the package, and nothing else is", async () => {
    const copy = (await import(
      /* @vite-ignore */ new URL("../src/errors.ts?copy", import.meta.url).href
    )) as typeof errors;
    const foreign = new copy.KeyReused();
    expect(foreign).not.toBeInstanceOf(errors.KeyReused);
    expect(errors.isSemelError(foreign)).toBe(true);
    expect(copy.isSemelError(new errors.KeyReused())).toBe(true);
    const lookAlike = Object.assign(new Error("m"), { code: "key-reused", retry: "new-key" });
    for (const value of [lookAlike, new Error("m"), null, undefined, "key-reused", {}, () => {}]) {
      expect(errors.isSemelError(value)).toBe(false);
    }
  });

  test("the brand does not show", () => {
    expect(Object.keys(new errors.KeyReused()).sort()).toEqual(["code", "name", "retry"]);
    expect(new errors.OperationBusy(5).retryAfterMs).toBe(5);
    expect(new errors.OperationHeld("why").reason).toBe("why");
  });
});
