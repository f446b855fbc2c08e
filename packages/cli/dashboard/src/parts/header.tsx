// The bar above every page: where this is, where one can go, and whether it is live.

import type { Session } from "../../../src/admin/contract.ts";
import { linkTo, type Route } from "../router.ts";
import { Icon } from "./icon.tsx";
import { ThemeSwitch } from "./theme.tsx";

interface HeaderProps {
  session: Session;
  route: Route;
  held: number | undefined;
  isConnected: boolean;
  onLeave: (() => Promise<void>) | undefined;
}

export function Header({ session, route, held = 0, isConnected, onLeave }: HeaderProps) {
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
            Held {held > 0 && <span class="count">{held > 999 ? "999+" : held}</span>}
          </Tab>
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
