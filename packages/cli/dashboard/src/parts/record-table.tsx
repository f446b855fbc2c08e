// Records as rows, each of which leads to its record.

import type { RecordRow } from "../../../src/admin/contract.ts";
import { dateTime, duration, plural } from "../format.ts";
import { linkTo } from "../router.ts";
import { StateBadge } from "./badge.tsx";

/** @param isShort without what only tables as wide as the page have room for */
export function RecordTable({ records, isShort }: { records: RecordRow[]; isShort?: boolean }) {
  return (
    <div class="scroll">
      <table class="rows">
        <thead>
          <tr>
            <th scope="col">State</th>
            <th scope="col">Key</th>
            <th scope="col">Scope</th>
            <th scope="col" class="number">
              Attempt
            </th>
            <th scope="col" class="number">
              Age
            </th>
            {!isShort && (
              <>
                <th scope="col" class="number">
                  Expires in
                </th>
                <th scope="col">Reason</th>
              </>
            )}
          </tr>
        </thead>
        <tbody>
          {records.map((record) => (
            <Row key={record.id} record={record} isShort={isShort ?? false} />
          ))}
        </tbody>
      </table>
    </div>
  );
}

function Row({ record, isShort }: { record: RecordRow; isShort: boolean }) {
  const { state, key, scope, attempt, ageMs, createdAt, expiresInMs, reason, crashes } = record;
  return (
    <tr>
      <td>
        <StateBadge state={state} />
      </td>
      <td class="key">
        <a class="row-link" href={linkTo({ page: "record", name: { scope, key } })}>
          {key}
        </a>
      </td>
      <td class="scope">{scope}</td>
      <td class="number">
        {attempt}
        {crashes > 0 && <span class="detail">{plural(crashes, "crash", "crashes")}</span>}
      </td>
      <td class="number" title={dateTime(createdAt)}>
        {duration(ageMs)}
      </td>
      {!isShort && (
        <>
          <td class="number">{expiresInMs === null ? "–" : duration(expiresInMs)}</td>
          <td class="reason">{reason ?? (state === "held" ? "lease-lapsed" : "")}</td>
        </>
      )}
    </tr>
  );
}
