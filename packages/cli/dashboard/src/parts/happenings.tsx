// What this process just saw, the newest first.

import type { Sighting } from "../../../src/admin/contract.ts";
import { clockTime, duration } from "../format.ts";
import { linkTo } from "../router.ts";
import { FateBadge } from "./badge.tsx";

const SHOWN = 14;

export function Happenings({ sightings }: { sightings: readonly Sighting[] }) {
  // That a request was let in is told again by how it ended.
  const shown = sightings.filter(({ what }) => what !== "begun").slice(0, SHOWN);
  return (
    <section class="panel">
      <h2>Just now</h2>
      {shown.length === 0 ? (
        <p class="muted">
          Nothing yet. Send a request with an Idempotency-Key through the gateway.
        </p>
      ) : (
        <div class="scroll">
          <table class="rows">
            <thead>
              <tr>
                <th scope="col">At</th>
                <th scope="col">What</th>
                <th scope="col">Key</th>
                <th scope="col">Scope</th>
                <th scope="col" class="number">
                  Attempt
                </th>
                <th scope="col" class="number">
                  Took
                </th>
              </tr>
            </thead>
            <tbody>
              {shown.map((sighting) => (
                <Row key={sighting.number} sighting={sighting} />
              ))}
            </tbody>
          </table>
        </div>
      )}
    </section>
  );
}

function Row({ sighting }: { sighting: Sighting }) {
  const { at, what, id, attempt, durationMs, detail, name, cached } = sighting;
  return (
    <tr>
      <td class="time">{clockTime(at)}</td>
      <td>
        <FateBadge what={what} />
        {detail && <span class="detail">{detail}</span>}
        {cached && <span class="detail">from memory</span>}
      </td>
      <td class="key">
        <a class="row-link" href={linkTo({ page: "record", name: { id } })}>
          {name?.key ?? `${id.slice(0, 12)}…`}
        </a>
      </td>
      <td class="scope">{name?.scope}</td>
      <td class="number">{attempt}</td>
      <td class="number">{durationMs === undefined ? "" : duration(durationMs)}</td>
    </tr>
  );
}
