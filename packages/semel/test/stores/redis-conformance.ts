// The conformance suite on one kind of client, each case with an empty prefix of its own.

import { afterAll, beforeAll, it, vi } from "vitest";
import { queueCases, storeCases } from "../../src/testing/index.ts";
import { type ClientKind, harnessOf, type OpenClient } from "./redis-fixture.ts";

/** A title that carries the reason of a skip. */
export function titled(title: string, missing: string | undefined): string {
  return missing === undefined ? title : `${title} (skipped: ${missing})`;
}

export function conformance(kind: ClientKind, ports: () => readonly number[]): void {
  let clients: OpenClient[];

  beforeAll(async () => {
    // A server for tests keeps nothing on disk, of which every store would warn.
    vi.spyOn(process, "emitWarning").mockImplementation(() => {});
    clients = await Promise.all([kind.open(ports()), kind.open(ports())]);
  });

  afterAll(async () => {
    for (const { close } of clients) await close();
    vi.restoreAllMocks();
  });

  for (const storeCase of [...storeCases, ...queueCases]) {
    it(storeCase.name, async () => {
      const harness = harnessOf(clients[0]!.client, clients[1]!.client, {
        evictionPolicy: "warn",
      });
      try {
        await storeCase.run(harness);
      } finally {
        await harness.close?.();
      }
    });
  }
}
