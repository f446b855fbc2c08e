// MSG-3 on databases: deliveries that come to several processes at once run once, and all of them answer
// what the one has answered.

import { afterAll, describe, expect, test } from "vitest";
import { Idempotency } from "../../src/engine/idempotency.ts";
import { webhook } from "../../src/webhooks/index.ts";
import { backends, closeServers } from "../engine/transaction-backends.ts";
import { senders } from "./senders.ts";

afterAll(closeServers);

for (const { name, reason, open } of backends) {
  const skipped = reason ? ` (skipped: ${reason})` : "";
  describe.skipIf(reason)(`webhooks on ${name}${skipped}`, () => {
    test.each(senders.map((sender) => ({ from: sender.name, sender })))(
      "MSG-3: a delivery of $from that comes to three processes at once runs once, and is answered alike",
      async ({ sender }) => {
        const stage = await open();
        const clients = await Promise.all([stage.connect(), stage.connect(), stage.connect()]);
        let runs = 0;
        const handlers = clients.map(({ store }) =>
          webhook(new Idempotency({ store, cache: false, sweep: false }), {
            scope: "hook",
            verify: sender.verifier,
          }).fetch(async (_request, delivery) => {
            runs++;
            return Response.json(
              { id: delivery.id, runs },
              { status: 201, headers: { etag: '"1"' } },
            );
          }),
        );
        const send = async (n: number) => {
          const { body, headers } = sender.deliver("evt_1", {}, new Date(Date.now() - n * 1_000));
          const request = new Request("http://localhost/", { method: "POST", body, headers });
          const answer = await handlers[n % handlers.length]!(request);
          return {
            status: answer.status,
            etag: answer.headers.get("etag"),
            text: await answer.text(),
          };
        };
        const first = { status: 201, etag: '"1"', text: JSON.stringify({ id: "evt_1", runs: 1 }) };
        const storm = await Promise.all(Array.from({ length: 30 }, (_, n) => send(n)));
        // Those that came while the first one ran are told so, and come again.
        const known = storm.filter(({ status }) => status !== 409);
        for (const answer of known) expect(answer).toEqual(first);
        expect(known.length).toBeGreaterThan(0);
        for (const n of [0, 1, 2]) expect(await send(n)).toEqual(first);
        expect(runs).toBe(1);
        for (const client of clients) await client.end();
        await stage.close();
      },
    );
  });
}
