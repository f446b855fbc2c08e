// Asks the admin listener.

import type {
  AdminProblem,
  Decided,
  NameBody,
  Overview,
  QueuedBody,
  QueuedDecided,
  QueuedView,
  QueuePage,
  RecordsPage,
  RecordView,
  ResolveBody,
  ResultContent,
  Session,
} from "../../src/admin/contract.ts";

/** Beside the page, wherever a proxy may have put it. */
const BASE = "./-/api";

/** An answer that is none of the wanted ones. */
export class ApiError extends Error {
  readonly status: number;
  readonly code: string;

  constructor(status: number, { code, detail }: AdminProblem) {
    super(detail);
    this.status = status;
    this.code = code;
  }
}

let onSessionEnd = () => {};

/** Has somebody told when the session has ended. */
export function whenSessionEnds(listener: () => void): void {
  onSessionEnd = listener;
}

async function ask<Answer>(path: string, init: RequestInit = {}): Promise<Answer> {
  let response: Response;
  try {
    response = await fetch(`${BASE}/${path}`, {
      ...init,
      headers: { "X-Semel-Request": "dashboard", ...init.headers },
    });
  } catch {
    const detail = "The listener cannot be reached. Is it running?";
    throw new ApiError(0, { code: "unreachable", detail });
  }
  const body: unknown = await response.json().catch(() => undefined);
  if (response.ok) return body as Answer;
  const problem = (body as AdminProblem | undefined) ?? {
    code: "unreadable",
    detail: `It answered ${response.status}, in a form that is not its own`,
  };
  if (response.status === 401 && problem.code === "token-needed") onSessionEnd();
  throw new ApiError(response.status, problem);
}

function post<Answer>(path: string, body: unknown = {}): Promise<Answer> {
  return ask(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
}

/** Names a record: as people do, or as events do. */
export type RecordName = { scope: string; key: string } | { id: string };

/** Which records are looked at. */
export interface RecordsFilter {
  state?: string;
  scope?: string;
  find?: string;
  olderThanMs?: string;
}

export interface RecordsQuery extends RecordsFilter {
  cursor?: string;
  limit?: string;
}

/** What of the queue is looked at. */
export interface QueueFilter {
  kind?: string;
  state?: string;
  name?: string;
}

function query(fields: object): string {
  const given = Object.entries(fields).filter(([, value]) => value !== undefined);
  return new URLSearchParams(given).toString();
}

export const api = {
  session: () => ask<Session>("session"),
  logIn: (token: string) => post("login", { token }),
  logOut: () => post("logout"),
  overview: () => ask<Overview>("overview"),
  records: (asked: RecordsQuery, signal?: AbortSignal) =>
    ask<RecordsPage>(`records?${query(asked)}`, signal ? { signal } : {}),
  record: (name: RecordName) => ask<RecordView>(`record?${query(name)}`),
  result: (name: RecordName) => ask<ResultContent>(`result?${query(name)}`),
  resolve: (body: ResolveBody) => post<Decided>("resolve", body),
  void: (name: NameBody) => post<Decided>("void", name),
  delete: (name: NameBody) => post<Decided>("delete", name),
  queue: (asked: QueueFilter & { cursor?: string }) => ask<QueuePage>(`queue?${query(asked)}`),
  queued: (id: string) => ask<QueuedView>(`queued?${query({ id })}`),
  revive: (item: QueuedBody) => post<QueuedDecided>("revive", item),
  remove: (item: QueuedBody) => post<QueuedDecided>("remove", item),
  events: () => new EventSource(`${BASE}/events`),
};
