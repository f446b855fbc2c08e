// Which page it is, by the address's fragment, so that every view can be linked to.

import { useEffect, useState } from "preact/hooks";
import type { QueueFilter, RecordName, RecordsFilter } from "./api.ts";

export type Route =
  | { page: "overview" }
  | { page: "records"; query: RecordsFilter }
  | { page: "record"; name: RecordName }
  | { page: "queue"; query: QueueFilter }
  | { page: "queued"; id: string };

const FILTERS = ["state", "scope", "find", "olderThanMs"] as const;
const QUEUE_FILTERS = ["kind", "state", "name"] as const;

export function routeOf(hash: string): Route {
  const [path, search] = hash.replace(/^#\/?/, "").split("?", 2);
  const fields = new URLSearchParams(search ?? "");
  if (path === "records") return { page: "records", query: filtersIn(fields, FILTERS) };
  if (path === "queue") return { page: "queue", query: filtersIn(fields, QUEUE_FILTERS) };
  const id = fields.get("id");
  if (path === "queued" && id) return { page: "queued", id };
  if (path === "record" && id) return { page: "record", name: { id } };
  const key = fields.get("key");
  if (path === "record" && key) {
    return { page: "record", name: { scope: fields.get("scope") ?? "", key } };
  }
  return { page: "overview" };
}

function filtersIn<Name extends string>(fields: URLSearchParams, names: readonly Name[]) {
  const given = names.map((name) => [name, fields.get(name)] as const);
  return Object.fromEntries(given.filter(([, value]) => value)) as { [name in Name]?: string };
}

export function linkTo(route: Route): string {
  switch (route.page) {
    case "overview":
      return "#/";
    case "records":
      return `#/records${search(route.query)}`;
    case "record":
      return `#/record${search(route.name)}`;
    case "queue":
      return `#/queue${search(route.query)}`;
    case "queued":
      return `#/queued${search({ id: route.id })}`;
  }
}

function search(fields: object): string {
  const text = new URLSearchParams(Object.entries(fields).filter(([, value]) => value)).toString();
  return text && `?${text}`;
}

export function goTo(route: Route): void {
  location.hash = linkTo(route);
}

export function useRoute(): Route {
  const [hash, setHash] = useState(location.hash);
  useEffect(() => {
    const onChange = () => setHash(location.hash);
    addEventListener("hashchange", onChange);
    return () => removeEventListener("hashchange", onChange);
  }, []);
  return routeOf(hash);
}
