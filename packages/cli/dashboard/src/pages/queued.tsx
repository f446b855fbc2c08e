// One effect, or one durable operation: how it stands, what was recorded for it, and what can be done.

import { useCallback, useEffect, useState } from "preact/hooks";
import type { QueuedRow, QueuedView, Sighting } from "../../../src/admin/contract.ts";
import { type ApiError, api } from "../api.ts";
import { dateTime, duration, plural } from "../format.ts";
import { QueueBadge } from "../parts/badge.tsx";
import { Dialog } from "../parts/dialog.tsx";
import { Icon } from "../parts/icon.tsx";
import { useNotice } from "../parts/notice.tsx";
import { queueDetail } from "../parts/timeline.tsx";
import { linkTo } from "../router.ts";

const AGAIN_MS = 5_000;

interface QueuedPageProps {
  id: string;
  /** What just happened to any operation: when it was this one's, it is looked at again. */
  latest: readonly Sighting[] | undefined;
}

export function QueuedPage({ id, latest }: QueuedPageProps) {
  const [view, setView] = useState<QueuedView>();
  const [failure, setFailure] = useState<string>();
  const load = useCallback(async () => {
    try {
      setView(await api.queued(id));
      setFailure(undefined);
    } catch (error) {
      setView(undefined);
      setFailure((error as ApiError).message);
    }
  }, [id]);
  const last = latest?.find((one) => one.id === view?.item.operation)?.number;
  const isWaiting = view?.item.state === "waiting";
  useEffect(() => void load(), [load, last]);
  useEffect(() => {
    if (!isWaiting) return undefined;
    const timer = setInterval(() => void load(), AGAIN_MS);
    return () => clearInterval(timer);
  }, [isWaiting, load]);
  return (
    <article class="record">
      <p class="back">
        <a
          href={linkTo({
            page: "queue",
            query: view?.item.kind === "task" ? { kind: "task" } : {},
          })}
        >
          <Icon name="back" /> Queue
        </a>
      </p>
      {failure && (
        <p class="failure" role="alert">
          {failure}
        </p>
      )}
      {view && (
        <>
          <header class="record-head">
            <div>
              <h1>{view.item.name}</h1>
              <p class="muted">
                {view.item.kind === "task" ? "durable operation" : "effect"} of{" "}
                <a href={linkTo({ page: "record", name: { id: view.item.operation } })}>
                  <span class="mono">{view.item.key}</span>
                </a>
                {view.item.scope && (
                  <>
                    {" "}
                    in scope <span class="mono">{view.item.scope}</span>
                  </>
                )}
              </p>
            </div>
            <QueueBadge item={view.item} />
            <Decisions item={view.item} onDecided={load} />
          </header>
          <div class="record-body">
            <Facts item={view.item} />
            <Payload view={view} />
          </div>
        </>
      )}
    </article>
  );
}

function Facts({ item }: { item: QueuedRow }) {
  const { attempts, unended, createdAt, expiresInMs, error, id } = item;
  const facts: [name: string, value: preact.ComponentChildren][] = [
    ["Stands", queueDetail({ ...item, error: null })],
    ["Without an end", unended > 0 ? `${unended} of ${plural(attempts, "attempt")}` : undefined],
    ["Last error", error && <span class="wrap">{error}</span>],
    ["Recorded", dateTime(createdAt)],
    ["Expires", expiresInMs === null ? undefined : `in ${duration(expiresInMs)}`],
    ["Id", <span class="mono wrap">{id}</span>],
  ];
  return (
    <section class="panel">
      <h2>Facts</h2>
      <dl class="facts">
        {facts.map(
          ([name, value]) =>
            value !== undefined &&
            value !== null && (
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

function Payload({ view: { payload, item } }: { view: QueuedView }) {
  const [isShown, setShown] = useState(false);
  const what = item.kind === "task" ? "Input" : "Payload";
  return (
    <section class="panel">
      <h2>{what}</h2>
      {"unreadable" in payload ? (
        <p>It cannot be read here: {payload.unreadable}</p>
      ) : !isShown ? (
        <p>
          <button type="button" onClick={() => setShown(true)}>
            Show what was recorded
          </button>
        </p>
      ) : (
        // It can be scrolled, so it can be reached by keyboard as well.
        // biome-ignore lint/a11y/noNoninteractiveTabindex: see above
        <section class="content" tabIndex={0} aria-label="What was recorded">
          <pre>{JSON.stringify(payload.value, null, 2) ?? "nothing"}</pre>
        </section>
      )}
    </section>
  );
}

function Decisions({ item, onDecided }: { item: QueuedRow; onDecided: () => Promise<void> }) {
  const [open, setOpen] = useState<"revive" | "remove">();
  const tell = useNotice();
  const { kind, id, name, state } = item;
  const decide = async (decision: "revive" | "remove", said: string) => {
    try {
      const { done } = await api[decision]({ kind, id });
      if (done) tell(said);
      else tell("It was too late: it is done, or being done right now.", true);
      setOpen(undefined);
      await onDecided();
    } catch (error) {
      tell((error as ApiError).message, true);
    }
  };
  const again = kind === "task" ? "Run again" : "Deliver again";
  return (
    <div class="decisions">
      {state !== "done" && (
        <button
          type="button"
          class={state === "dead" ? "primary" : ""}
          onClick={() => setOpen("revive")}
        >
          {state === "dead" ? `${again}…` : "Make it due now…"}
        </button>
      )}
      <button type="button" onClick={() => setOpen("remove")}>
        Forget…
      </button>
      {open === "revive" && (
        <Dialog
          title={state === "dead" ? again : "Make it due now"}
          onClose={() => setOpen(undefined)}
          onSubmit={() => void decide("revive", `${name} is due now.`)}
          actions={
            <button type="submit" class="primary">
              {state === "dead" ? again : "Make it due now"}
            </button>
          }
        >
          <p>
            It is due at once, as if it had never been tried, for whichever{" "}
            {kind === "task" ? "worker" : "relay"} takes it. Mend first what it failed with.
          </p>
          {item.unended > 0 && (
            <p>
              An attempt has no end: what it did, if its process died, may be done once more under
              the same id.
            </p>
          )}
        </Dialog>
      )}
      {open === "remove" && (
        <Dialog
          title="Forget it"
          onClose={() => setOpen(undefined)}
          onSubmit={() => void decide("remove", `${name} is forgotten.`)}
          actions={
            <button type="submit" class="danger">
              Forget it
            </button>
          }
        >
          <p>
            {state === "done"
              ? "It has been done. If its operation records it once more, it is done once more."
              : "It is not done any more, and those behind it go on."}
          </p>
        </Dialog>
      )}
    </div>
  );
}
