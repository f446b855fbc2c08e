// Records, a page at a time, as the store has them; and a search through them.

import { useCallback, useEffect, useRef, useState } from "preact/hooks";
import type { RecordRow } from "../../../src/admin/contract.ts";
import { type ApiError, api, type RecordsFilter } from "../api.ts";
import { plural } from "../format.ts";
import { Filters } from "../parts/filters.tsx";
import { RecordTable } from "../parts/record-table.tsx";
import { linkTo } from "../router.ts";

/** A search goes on by itself until it has found so many, or looked through so many. */
const SEARCH = { found: 50, searched: 50_000 };

interface Loaded {
  records: RecordRow[];
  cursor: string | null;
  searched: number;
}

export function RecordsPage({ query }: { query: RecordsFilter }) {
  const records = useRecords(query);
  const { loaded, failure, isLoading, page } = records;
  return (
    <>
      <h1 class="page-title">{query.state === "held" ? "What is held" : "Records"}</h1>
      {query.state === "held" && (
        <p class="muted lead">
          Nobody knows whether these were applied. They run no more until somebody finds out, in the
          records of whatever they ask, and says so.
        </p>
      )}
      <Filters query={query} />
      {failure && (
        <p class="failure" role="alert">
          {failure}
        </p>
      )}
      <div aria-busy={isLoading}>
        {loaded && loaded.records.length > 0 && <RecordTable records={loaded.records} />}
        {loaded && loaded.records.length === 0 && !isLoading && (
          <p class="empty">
            {emptyText(query)}
            {query.find && (
              <>
                {" "}
                <a
                  href={linkTo({
                    page: "record",
                    name: { scope: query.scope ?? "", key: query.find },
                  })}
                >
                  Void this key
                </a>{" "}
                before anybody asks for it.
              </>
            )}
          </p>
        )}
        {loaded && query.find && (
          <SearchProgress loaded={loaded} isLoading={isLoading} onGoOn={records.goOn} />
        )}
      </div>
      <nav class="pager" aria-label="Pages of records">
        <button type="button" onClick={records.newer} disabled={page === 1 || isLoading}>
          Newer
        </button>
        <span>
          Page {page}
          {loaded && !query.find && `, ${plural(loaded.records.length, "record")}`}
        </span>
        <button
          type="button"
          onClick={records.older}
          disabled={!loaded?.cursor || !!query.find || isLoading}
        >
          Older
        </button>
        <button type="button" class="quiet" onClick={records.reload} disabled={isLoading}>
          Refresh
        </button>
      </nav>
    </>
  );
}

/** Where to look: which records, and where the pages up to this one began. */
interface Place {
  text: string;
  cursors: (string | undefined)[];
}

function useRecords(query: RecordsFilter) {
  const text = JSON.stringify(query);
  const [place, setPlace] = useState<Place>({ text, cursors: [undefined] });
  const [loaded, setLoaded] = useState<Loaded>();
  const [failure, setFailure] = useState<string>();
  const [isLoading, setLoading] = useState(true);
  const running = useRef<AbortController>(undefined);
  // Other records begin at their first page.
  const { cursors } = place.text === text ? place : { cursors: [undefined] };
  const cursor = cursors.at(-1);

  const load = useCallback(
    async (from: string | undefined, before: Loaded) => {
      running.current?.abort();
      const controller = new AbortController();
      running.current = controller;
      setLoading(true);
      try {
        await look(JSON.parse(text), from, before, controller.signal, setLoaded);
        setFailure(undefined);
      } catch (error) {
        if (controller.signal.aborted) return;
        setFailure((error as ApiError).message);
      }
      setLoading(false);
    },
    [text],
  );
  useEffect(() => {
    void load(cursor, NOTHING);
    return () => running.current?.abort();
  }, [load, cursor]);
  return {
    ...{ loaded, failure, isLoading, page: cursors.length },
    reload: () => void load(cursor, NOTHING),
    goOn: () => loaded?.cursor && void load(loaded.cursor, loaded),
    older: () => loaded?.cursor && setPlace({ text, cursors: [...cursors, loaded.cursor] }),
    newer: () => setPlace({ text, cursors: cursors.slice(0, -1) }),
  };
}

const NOTHING: Loaded = { records: [], cursor: null, searched: 0 };

/** Asks for a page; a search, for one after the other, until it is enough. */
async function look(
  query: RecordsFilter,
  from: string | undefined,
  before: Loaded,
  signal: AbortSignal,
  found: (loaded: Loaded) => void,
): Promise<void> {
  let [so, at] = [before, from];
  const searchedMax = before.searched + SEARCH.searched;
  for (;;) {
    const page = await api.records({ ...query, ...(at !== undefined && { cursor: at }) }, signal);
    signal.throwIfAborted();
    so = {
      records: [...so.records, ...page.records],
      cursor: page.cursor,
      searched: so.searched + page.searched,
    };
    found(so);
    const isEnough = so.records.length >= SEARCH.found || so.searched >= searchedMax;
    if (!query.find || page.cursor === null || isEnough) return;
    at = page.cursor;
  }
}

function SearchProgress({
  loaded: { records, cursor, searched },
  isLoading,
  onGoOn,
}: {
  loaded: Loaded;
  isLoading: boolean;
  onGoOn: () => void;
}) {
  return (
    <p class="search-progress" role="status">
      {plural(records.length, "match", "matches")} in the newest {plural(searched, "record")}
      {isLoading ? ", looking on…" : cursor === null ? ", which is all of them." : "."}{" "}
      {!isLoading && cursor !== null && (
        <button type="button" onClick={onGoOn}>
          Look through older ones
        </button>
      )}
    </p>
  );
}

function emptyText({ state, find, scope, olderThanMs }: RecordsFilter): string {
  if (state === "held" && !find && !scope && !olderThanMs) return "Nothing is held.";
  if (state || find || scope || olderThanMs) return "No record is like that.";
  return "There are no records yet.";
}
