// One record: what became of it, what is known about how, and what can be decided about it.

import { useCallback, useEffect, useState } from "preact/hooks";
import type { RecordView, ResultContent, Sighting } from "../../../src/admin/contract.ts";
import { type ApiError, api, type RecordName } from "../api.ts";
import { bytes, dateTime, duration } from "../format.ts";
import { StateBadge } from "../parts/badge.tsx";
import { Decisions, VoidUnseen } from "../parts/decisions.tsx";
import { Icon } from "../parts/icon.tsx";
import { Timeline } from "../parts/timeline.tsx";
import { linkTo } from "../router.ts";

const AGAIN_MS = 5_000;

interface RecordPageProps {
  name: RecordName;
  isGateway: boolean;
  /** What just happened to any operation: when it was this one, it is looked at again. */
  latest: readonly Sighting[] | undefined;
}

export function RecordPage({ name, isGateway, latest }: RecordPageProps) {
  const [view, setView] = useState<RecordView>();
  const [failure, setFailure] = useState<ApiError>();
  const load = useCallback(async () => {
    try {
      setView(await api.record(name));
      setFailure(undefined);
    } catch (error) {
      setFailure(error as ApiError);
    }
  }, [name]);
  const last = latest?.find(({ id }) => id === view?.record.id)?.number;
  const isRunning = view?.record.state === "running";
  useEffect(() => void load(), [load, last]);
  useEffect(() => {
    if (!isRunning) return undefined;
    const timer = setInterval(() => void load(), AGAIN_MS);
    return () => clearInterval(timer);
  }, [isRunning, load]);

  return (
    <article class="record">
      <p class="back">
        <a href={linkTo({ page: "records", query: {} })}>
          <Icon name="back" /> Records
        </a>
      </p>
      {failure && (
        <p class="failure" role="alert">
          {failure.message}
        </p>
      )}
      {failure?.code === "absent" && !view && "key" in name && (
        <header class="record-head">
          <div>
            <h1>{name.key}</h1>
            <InScope scope={name.scope} />
          </div>
          <VoidUnseen name={name} onDecided={load} />
        </header>
      )}
      {view && (
        <>
          <header class="record-head">
            <div>
              <h1>{view.record.key}</h1>
              <InScope scope={view.record.scope} />
            </div>
            <StateBadge state={view.record.state} />
            <Decisions record={view.record} isGateway={isGateway} onDecided={load} />
          </header>
          <div class="record-body">
            <section class="panel">
              <h2>What happened</h2>
              <Timeline view={view} />
            </section>
            <div>
              <Facts view={view} />
              <Result view={view} name={{ id: view.record.id }} />
            </div>
          </div>
        </>
      )}
    </article>
  );
}

function InScope({ scope }: { scope: string }) {
  return (
    <p class="muted">
      {scope ? (
        <>
          in scope <span class="mono">{scope}</span>
        </>
      ) : (
        "without a scope"
      )}
    </p>
  );
}

function Facts({ view: { record } }: { view: RecordView }) {
  const { attempt, crashes, onCrash, leaseRemainingMs, expiresInMs, fingerprint, id } = record;
  const facts: [name: string, value: preact.ComponentChildren][] = [
    ["Attempt", crashes === 0 ? attempt : `${attempt}, ${crashes} of them taken over`],
    ["Reason", record.reason && <span class="wrap">{record.reason}</span>],
    ["Created", dateTime(record.createdAt)],
    ["Changed", dateTime(record.updatedAt)],
    ["Lease", leaseRemainingMs === null ? undefined : leaseText(leaseRemainingMs)],
    ["Expires", expiresInMs === null ? "when resolved" : `in ${duration(expiresInMs)}`],
    ["On a crash", ON_CRASH[onCrash]],
    ["Payload", fingerprint && <span class="mono wrap">{fingerprint}</span>],
    ["Record", <span class="mono wrap">{id}</span>],
  ];
  return (
    <section class="panel">
      <h2>Facts</h2>
      <dl class="facts">
        {facts.map(
          ([name, value]) =>
            value && (
              <div key={name}>
                <dt>{name}</dt>
                <dd>{value}</dd>
              </div>
            ),
        )}
      </dl>
    </section>
  );
}

const ON_CRASH = {
  hold: "held until resolved",
  rerun: "runs again",
  probe: "a probe finds out",
} as const;

function leaseText(ms: number): string {
  return ms > 0 ? `for ${duration(ms)} more` : `lapsed ${duration(-ms)} ago`;
}

function Result({ view: { result }, name }: { view: RecordView; name: RecordName }) {
  const [content, setContent] = useState<ResultContent>();
  const [failure, setFailure] = useState<string>();
  if (result === null) return null;
  const show = async () => {
    try {
      setContent(await api.result(name));
    } catch (error) {
      setFailure((error as ApiError).message);
    }
  };
  const isKept = result.kind === "http" || result.kind === "value";
  return (
    <section class="panel">
      <h2>Answer</h2>
      <p>{resultText(result)}</p>
      {isKept && !content && (
        <p>
          <button type="button" onClick={() => void show()}>
            Show what callers get
          </button>
        </p>
      )}
      {failure && (
        <p class="failure" role="alert">
          {failure}
        </p>
      )}
      {content && (
        // It can be scrolled, so it can be reached by keyboard as well.
        // biome-ignore lint/a11y/noNoninteractiveTabindex: see above
        <section class="content" tabIndex={0} aria-label="What callers get">
          <pre>{contentText(content)}</pre>
        </section>
      )}
    </section>
  );
}

function resultText({ kind, status, bytes: size, message }: NonNullable<RecordView["result"]>) {
  switch (kind) {
    case "http":
      return `HTTP ${status}, ${bytes(size ?? 0)}. Every caller gets the same.`;
    case "value":
      return "A value of run(). Every caller gets the same.";
    case "failure":
      return `The handler's failure is kept: ${message}`;
    case "not-stored":
      return `It completed${status ? ` with HTTP ${status}` : ""}; its answer was too large to be kept.`;
    case "unreadable":
      return `It cannot be read here: ${message}`;
  }
}

function contentText(content: ResultContent): string {
  switch (content.kind) {
    case "http": {
      const { status, headers, body, bodyBase64 } = content;
      const lines = headers.map(([name, value]) => `${name}: ${value}`);
      const text = body ?? `(not text; in base64)\n${bodyBase64}`;
      return [`HTTP ${status}`, ...lines, "", text].join("\n");
    }
    case "value":
      return JSON.stringify(content.value, null, 2) ?? "undefined";
    case "not-stored":
      return "";
    default:
      return content.message;
  }
}
