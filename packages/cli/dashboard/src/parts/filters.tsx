// What of the records is shown. It is all in the address, so that a view can be sent to somebody.

import { useEffect, useId, useState } from "preact/hooks";
import { api, type RecordsFilter } from "../api.ts";
import { goTo } from "../router.ts";
import { Icon } from "./icon.tsx";

const STATES = [
  [undefined, "All"],
  ["running", "Running"],
  ["completed", "Completed"],
  ["held", "Held"],
  ["open", "Released"],
  ["void", "Void"],
] as const;

const AGES: readonly [ms: string, label: string][] = [
  ["", "any age"],
  ["60000", "over 1 minute"],
  ["3600000", "over 1 hour"],
  ["86400000", "over 1 day"],
];

export function Filters({ query }: { query: RecordsFilter }) {
  const [find, setFind] = useState(query.find ?? "");
  const [scope, setScope] = useState(query.scope ?? "");
  useEffect(() => {
    setFind(query.find ?? "");
    setScope(query.scope ?? "");
  }, [query.find, query.scope]);
  const [findId, scopeId, ageId] = [useId(), useId(), useId()];
  const show = (change: { [Name in keyof RecordsFilter]?: RecordsFilter[Name] | undefined }) => {
    const fields = Object.entries({ ...query, ...change }).filter(([, value]) => value);
    goTo({ page: "records", query: Object.fromEntries(fields) });
  };
  const search = async (event: Event) => {
    event.preventDefault();
    // A whole key is found at once, however many records there are.
    if (find && (await isKey(find, scope))) {
      return goTo({ page: "record", name: { scope, key: find } });
    }
    show({ find: find || undefined, scope: scope || undefined });
  };
  return (
    <form class="filters" onSubmit={(event) => void search(event)}>
      <div class="search">
        <Icon name="search" />
        <label class="hidden" for={findId}>
          Key, or part of one
        </label>
        <input
          id={findId}
          type="search"
          placeholder="Key, or part of one"
          value={find}
          onInput={(event) => setFind(event.currentTarget.value)}
          onKeyDown={(event) => {
            if (event.key === "Escape") event.currentTarget.blur();
          }}
        />
        <span class="key-hint" aria-hidden="true">
          /
        </span>
      </div>
      <label class="hidden" for={scopeId}>
        Scope
      </label>
      <input
        id={scopeId}
        class="scope-field"
        placeholder="Scope"
        value={scope}
        onInput={(event) => setScope(event.currentTarget.value)}
      />
      <button type="submit">Search</button>
      <fieldset class="segments">
        <legend class="hidden">State</legend>
        {STATES.map(([state, label]) => (
          <label key={label}>
            <input
              type="radio"
              name="state"
              checked={query.state === state}
              onChange={() => show({ state })}
            />
            <span>{label}</span>
          </label>
        ))}
      </fieldset>
      <label class="hidden" for={ageId}>
        Age
      </label>
      <select
        id={ageId}
        value={query.olderThanMs ?? ""}
        onChange={(event) => show({ olderThanMs: event.currentTarget.value || undefined })}
      >
        {AGES.map(([ms, label]) => (
          <option key={ms} value={ms}>
            {label}
          </option>
        ))}
      </select>
    </form>
  );
}

async function isKey(find: string, scope: string): Promise<boolean> {
  try {
    const { exact } = await api.records({ find, ...(scope && { scope }), limit: "1" });
    return exact !== null;
  } catch {
    return false;
  }
}
