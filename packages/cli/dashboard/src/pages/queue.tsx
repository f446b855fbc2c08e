// What is queued: effects and durable operations, a page at a time, newest first.

import { useCallback, useEffect, useState } from "preact/hooks";
import type { QueuePage as Page, QueuedRow } from "../../../src/admin/contract.ts";
import { type ApiError, api, type QueueFilter } from "../api.ts";
import { dateTime, duration, plural } from "../format.ts";
import { QueueBadge } from "../parts/badge.tsx";
import { goTo, linkTo } from "../router.ts";

const KINDS = [
  [undefined, "Effects"],
  ["task", "Durable operations"],
] as const;
const STATES = [
  [undefined, "All"],
  ["waiting", "Waiting"],
  ["dead", "Given up"],
  ["done", "Done"],
] as const;

export function QueuePage({ query }: { query: QueueFilter }) {
  const { page, failure, isLoading, number, reload, older, newer } = useQueue(query);
  return (
    <>
      <h1 class="page-title">Queue</h1>
      <p class="muted lead">
        {query.kind === "task"
          ? "Durable operations are done by workers, also after the process that asked for them is gone. What failed as often as it may is given up."
          : "Effects are recorded with their operation, and delivered by relays. What failed as often as it may is given up."}
      </p>
      <Filters query={query} />
      {failure && (
        <p class="failure" role="alert">
          {failure}
        </p>
      )}
      <div aria-busy={isLoading}>
        {page && page.items.length > 0 && <QueueTable items={page.items} />}
        {page?.items.length === 0 && !isLoading && <p class="empty">There is nothing like this.</p>}
      </div>
      <nav class="pager" aria-label="Pages of the queue">
        <button type="button" onClick={newer} disabled={number === 1 || isLoading}>
          Newer
        </button>
        <span>
          Page {number}
          {page && `, ${plural(page.items.length, "item")}`}
        </span>
        <button type="button" onClick={older} disabled={!page?.cursor || isLoading}>
          Older
        </button>
        <button type="button" class="quiet" onClick={reload} disabled={isLoading}>
          Refresh
        </button>
      </nav>
    </>
  );
}

function useQueue(query: QueueFilter) {
  const text = JSON.stringify(query);
  const [place, setPlace] = useState<{ text: string; cursors: string[] }>({ text, cursors: [] });
  const [page, setPage] = useState<Page>();
  const [failure, setFailure] = useState<string>();
  const [isLoading, setLoading] = useState(true);
  // Another view begins at its first page.
  const cursors = place.text === text ? place.cursors : [];
  const cursor = cursors.at(-1);
  const load = useCallback(
    async (isWanted: () => boolean = () => true) => {
      setLoading(true);
      try {
        const found = await api.queue({ ...JSON.parse(text), ...(cursor && { cursor }) });
        if (!isWanted()) return;
        setPage(found);
        setFailure(undefined);
      } catch (error) {
        if (!isWanted()) return;
        setFailure((error as ApiError).message);
      }
      setLoading(false);
    },
    [text, cursor],
  );
  useEffect(() => {
    let isWanted = true;
    void load(() => isWanted);
    return () => {
      isWanted = false;
    };
  }, [load]);
  return {
    ...{ page, failure, isLoading, number: cursors.length + 1 },
    reload: () => void load(),
    older: () => page?.cursor && setPlace({ text, cursors: [...cursors, page.cursor] }),
    newer: () => setPlace({ text, cursors: cursors.slice(0, -1) }),
  };
}

function Filters({ query }: { query: QueueFilter }) {
  const show = (change: { [Name in keyof QueueFilter]?: QueueFilter[Name] | undefined }) => {
    const fields = Object.entries({ ...query, ...change }).filter(([, value]) => value);
    goTo({ page: "queue", query: Object.fromEntries(fields) });
  };
  return (
    <form class="filters" onSubmit={(event) => event.preventDefault()}>
      <Choice
        legend="Kind"
        choices={KINDS}
        chosen={query.kind}
        onChoose={(kind) => show({ kind })}
      />
      <Choice
        legend="State"
        choices={STATES}
        chosen={query.state}
        onChoose={(state) => show({ state })}
      />
    </form>
  );
}

function Choice({
  legend,
  choices,
  chosen,
  onChoose,
}: {
  legend: string;
  choices: readonly (readonly [value: string | undefined, label: string])[];
  chosen: string | undefined;
  onChoose: (value: string | undefined) => void;
}) {
  return (
    <fieldset class="segments">
      <legend class="hidden">{legend}</legend>
      {choices.map(([value, label]) => (
        <label key={label}>
          <input
            type="radio"
            name={legend}
            checked={chosen === value}
            onChange={() => onChoose(value)}
          />
          <span>{label}</span>
        </label>
      ))}
    </fieldset>
  );
}

function QueueTable({ items }: { items: QueuedRow[] }) {
  return (
    <div class="scroll">
      <table class="rows">
        <thead>
          <tr>
            <th scope="col">State</th>
            <th scope="col">Name</th>
            <th scope="col">Key</th>
            <th scope="col">Scope</th>
            <th scope="col" class="number">
              Attempts
            </th>
            <th scope="col" class="number">
              Age
            </th>
            <th scope="col" class="number">
              Due in
            </th>
            <th scope="col">Error</th>
          </tr>
        </thead>
        <tbody>
          {items.map((item) => (
            <Row key={item.id} item={item} />
          ))}
        </tbody>
      </table>
    </div>
  );
}

function Row({ item }: { item: QueuedRow }) {
  const { id, name, key, scope, attempts, ageMs, createdAt, dueInMs, error } = item;
  return (
    <tr>
      <td>
        <QueueBadge item={item} />
      </td>
      <td>
        <a class="row-link" href={linkTo({ page: "queued", id })}>
          {name}
        </a>
      </td>
      <td class="key">{key}</td>
      <td class="scope">{scope}</td>
      <td class="number">{attempts}</td>
      <td class="number" title={dateTime(createdAt)}>
        {duration(ageMs)}
      </td>
      <td class="number">{dueInMs === null ? "–" : dueInMs > 0 ? duration(dueInMs) : "now"}</td>
      <td class="reason">{error}</td>
    </tr>
  );
}
