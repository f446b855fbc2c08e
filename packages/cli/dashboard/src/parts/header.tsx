// The bar above every page: where this is, where one can go, and whether it is live.

import type { Census, Session } from "../../../src/admin/contract.ts";
import { linkTo, type Route } from "../router.ts";
import { Icon } from "./icon.tsx";
import { ThemeSwitch } from "./theme.tsx";

interface HeaderProps {
  session: Session;
  route: Route;
  census: Census | undefined;
  isConnected: boolean;
  onLeave: (() => Promise<void>) | undefined;
}

export function Header({ session, route, census, isConnected, onLeave }: HeaderProps) {
  const held = census?.stats?.states.held ?? 0;
  const queue = census?.queue;
  const dead = queue ? queue.states.task.dead + queue.states.effect.dead : 0;
  const isHeld = route.page === "records" && route.query.state === "held";
  const { store, upstream, version } = session.about ?? { store: "", version: "" };
  return (
    <header class="top">
      <div class="top-inner">
        <a class="brand" href={linkTo({ page: "overview" })}>
          <Icon name="mark" />
          Semel
        </a>
        <nav aria-label="Pages">
          <Tab route={{ page: "overview" }} isHere={route.page === "overview"}>
            Overview
          </Tab>
          <Tab
            route={{ page: "records", query: {} }}
            isHere={(route.page === "records" && !isHeld) || route.page === "record"}
          >
            Records
          </Tab>
          <Tab route={{ page: "records", query: { state: "held" } }} isHere={isHeld}>
            Held <Count of={held} />
          </Tab>
          {queue && (
            <Tab
              route={{ page: "queue", query: {} }}
              isHere={route.page === "queue" || route.page === "queued"}
            >
              Queue <Count of={dead} />
            </Tab>
          )}
        </nav>
        <dl class="where" aria-label="What this is about">
          {upstream && (
            <div>
              <dt>gateway to</dt>
              <dd>{upstream}</dd>
            </div>
          )}
          <div>
            <dt>store</dt>
            <dd title={`${store}, Semel ${version}`}>{store}</dd>
          </div>
        </dl>
        <span class={`live ${isConnected ? "is-live" : "is-lost"}`}>
          {isConnected ? "Live" : "Not connected"}
        </span>
        <ThemeSwitch />
        {onLeave && (
          <button type="button" class="quiet" onClick={() => void onLeave()}>
            Log out
          </button>
        )}
      </div>
    </header>
  );
}

/** What waits for somebody. */
function Count({ of }: { of: number }) {
  return of > 0 ? <span class="count">{of > 999 ? "999+" : of}</span> : null;
}

function Tab({
  route,
  isHere,
  children,
}: {
  route: Route;
  isHere: boolean;
  children: preact.ComponentChildren;
}) {
  return (
    <a href={linkTo(route)} aria-current={isHere ? "page" : undefined}>
      {children}
    </a>
  );
}
