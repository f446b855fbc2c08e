// Which page it is, by the address's fragment, so that every view can be linked to.

import { useEffect, useState } from "preact/hooks";
import type { RecordName, RecordsFilter } from "./api.ts";

export type Route =
  | { page: "overview" }
  | { page: "records"; query: RecordsFilter }
  | { page: "record"; name: RecordName };

const FILTERS = ["state", "scope", "find", "olderThanMs"] as const;

export function routeOf(hash: string): Route {
  const [path, search] = hash.replace(/^#\/?/, "").split("?", 2);
  const fields = new URLSearchParams(search ?? "");
  if (path === "records") {
    const query: RecordsFilter = {};
    for (const name of FILTERS) {
      const value = fields.get(name);
      if (value) query[name] = value;
    }
    return { page: "records", query };
  }
  const id = fields.get("id");
  if (path === "record" && id) return { page: "record", name: { id } };
  const key = fields.get("key");
  if (path === "record" && key) {
    return { page: "record", name: { scope: fields.get("scope") ?? "", key } };
  }
  return { page: "overview" };
}

export function linkTo(route: Route): string {
  switch (route.page) {
    case "overview":
      return "#/";
    case "records":
      return `#/records${search(route.query)}`;
    case "record":
      return `#/record${search(route.name)}`;
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
