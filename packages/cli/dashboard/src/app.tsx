// Who is there, which page it is, and what surrounds every page.

import { useCallback, useEffect, useRef, useState } from "preact/hooks";
import type { Session } from "../../src/admin/contract.ts";
import { type ApiError, api, whenSessionEnds } from "./api.ts";
import { useLive } from "./live.ts";
import { Login } from "./pages/login.tsx";
import { OverviewPage } from "./pages/overview.tsx";
import { QueuePage } from "./pages/queue.tsx";
import { QueuedPage } from "./pages/queued.tsx";
import { RecordPage } from "./pages/record.tsx";
import { RecordsPage } from "./pages/records.tsx";
import { Header } from "./parts/header.tsx";
import { NoticeProvider } from "./parts/notice.tsx";
import { Shortcuts } from "./parts/shortcuts.tsx";
import { type Route, useRoute } from "./router.ts";

const AGAIN_MS = 3_000;

export function App() {
  const [session, setSession] = useState<Session>();
  const [failure, setFailure] = useState<string>();
  const ask = useCallback(async () => {
    try {
      setSession(await api.session());
      setFailure(undefined);
    } catch (error) {
      setFailure((error as ApiError).message);
    }
  }, []);
  useEffect(() => void ask(), [ask]);
  useEffect(() => {
    whenSessionEnds(() => setSession({ admitted: false, hasToken: true }));
  }, []);
  useEffect(() => {
    if (failure === undefined) return undefined;
    const timer = setTimeout(() => void ask(), AGAIN_MS);
    return () => clearTimeout(timer);
  }, [failure, ask]);

  if (session === undefined) {
    return (
      <main class="lonely">
        <p role="status">{failure === undefined ? "Asking…" : `${failure} Trying again…`}</p>
      </main>
    );
  }
  if (!session.admitted) return <Login onLoggedIn={ask} />;
  return <Admitted session={session} onLeft={ask} />;
}

function Admitted({ session, onLeft }: { session: Session; onLeft: () => Promise<void> }) {
  const route = useRoute();
  const { overview, isConnected } = useLive(true);
  useTitle(route, overview?.census.stats?.states.held ?? 0);
  useFocus(route);
  const leave = async () => {
    await api.logOut().catch(() => {});
    await onLeft();
  };
  return (
    <NoticeProvider>
      <a class="skip" href="#main">
        Skip to the content
      </a>
      <Header
        session={session}
        route={route}
        census={overview?.census}
        isConnected={isConnected}
        onLeave={session.hasToken ? leave : undefined}
      />
      {!isConnected && (
        <p class="banner" role="status">
          The connection is lost; what you see is from before. Trying again…
        </p>
      )}
      <main id="main" tabIndex={-1}>
        <Page route={route} session={session} overview={overview} />
      </main>
      <Shortcuts />
    </NoticeProvider>
  );
}

function Page({
  route,
  session,
  overview,
}: {
  route: Route;
  session: Session;
  overview: ReturnType<typeof useLive>["overview"];
}) {
  switch (route.page) {
    case "overview":
      return <OverviewPage overview={overview} session={session} />;
    case "records":
      return <RecordsPage query={route.query} />;
    case "queue":
      return <QueuePage query={route.query} />;
    case "queued":
      return <QueuedPage id={route.id} key={route.id} latest={overview?.sightings} />;
    case "record":
      return (
        <RecordPage
          name={route.name}
          key={JSON.stringify(route.name)}
          isGateway={session.about?.upstream !== undefined}
          latest={overview?.sightings}
        />
      );
  }
}

const TITLES = {
  ...{ overview: "Overview", records: "Records", record: "Record" },
  ...{ queue: "Queue", queued: "In the queue" },
} as const;

/** What waits for somebody is seen in another tab, too. */
function useTitle({ page }: Route, held: number): void {
  useEffect(() => {
    const waiting = held > 0 ? `(${held} held) ` : "";
    document.title = `${waiting}${TITLES[page]} · Semel`;
  }, [page, held]);
}

/** Whoever goes to another page by keyboard, or hears it, begins at its content. */
function useFocus(route: Route): void {
  const isOne = route.page === "record" || route.page === "queued";
  const place = isOne ? JSON.stringify(route) : route.page;
  const before = useRef(place);
  useEffect(() => {
    if (before.current === place) return;
    before.current = place;
    document.querySelector<HTMLElement>("#main")?.focus({ preventScroll: true });
    scrollTo(0, 0);
  }, [place]);
}
