// The queue that durable operations and effects are kept in (EN-7, EN-8), as every store that has one
// keeps it.

import type { StoreCase } from "../store-harness.ts";
import { addingCases } from "./queue/adding.ts";
import { claimingCases } from "./queue/claiming.ts";
import { endingCases } from "./queue/ending.ts";
import { enqueuingCases } from "./queue/enqueuing.ts";
import { keepingCases } from "./queue/keeping.ts";

/**
 * Every behaviour that a store with a `queue` must have besides `storeCases`. The harness's `elapse`
 * moves the times of items along.
 */
export const queueCases: readonly StoreCase[] = [
  ...addingCases,
  ...claimingCases,
  ...endingCases,
  ...keepingCases,
];

/** The same of a store whose `transactions` can `enqueue`. */
export const enqueueCases: readonly StoreCase[] = enqueuingCases;
