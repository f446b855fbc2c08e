// The newest records, where nothing else tells what goes on.

import { useEffect, useState } from "preact/hooks";
import type { RecordRow } from "../../../src/admin/contract.ts";
import { api } from "../api.ts";
import { linkTo } from "../router.ts";
import { RecordTable } from "./record-table.tsx";

const SHOWN = "14";

/** @param count changes whenever the store was counted: then it is looked at again as well */
export function NewestRecords({ count }: { count: number | null }) {
  const [records, setRecords] = useState<RecordRow[]>([]);
  useEffect(() => {
    api.records({ limit: SHOWN }).then(
      (page) => setRecords(page.records),
      () => {},
    );
  }, [count]);
  return (
    <section class="panel">
      <h2>Newest records</h2>
      {records.length === 0 ? (
        <p class="muted">There are none yet.</p>
      ) : (
        <RecordTable records={records} isShort />
      )}
      <p class="more">
        <a href={linkTo({ page: "records", query: {} })}>All records</a>
      </p>
    </section>
  );
}
