// The first page: whether somebody has to do something, then how much goes on, then what just happened.

import { Fragment } from "preact";
import { useMemo, useState } from "preact/hooks";
import { type Census, FLOWS, type Overview, type Session } from "../../../src/admin/contract.ts";
import * as format from "../format.ts";
import { Chart } from "../parts/chart.tsx";
import { Happenings } from "../parts/happenings.tsx";
import { NewestRecords } from "../parts/newest-records.tsx";
import { linkTo } from "../router.ts";
import { lately, type Point, pointsOf, RANGES } from "../series.ts";

export function OverviewPage({
  overview,
  session,
}: {
  overview: Overview | undefined;
  session: Session;
}) {
  if (overview === undefined) return <p class="waiting">Asking…</p>;
  const isGateway = session.about?.upstream !== undefined;
  return (
    <>
      <Headline overview={overview} isGateway={isGateway} />
      <Numbers census={overview.census} />
      <Queued census={overview.census} />
      <Charts overview={overview} isGateway={isGateway} />
    </>
  );
}

function Headline({ overview, isGateway }: { overview: Overview; isGateway: boolean }) {
  const { census, samples } = overview;
  const { perSecond, replayedShare, requests } = lately(samples);
  const active = samples.at(-1)?.active ?? 0;
  const share = Math.round(replayedShare * 100);
  return (
    <section class="headline">
      <HeldSentence census={census} />
      <p class="muted">
        {!isGateway
          ? "This watches the store. What is replayed and refused, gateways and applications count themselves."
          : requests === 0
            ? "No request with a key in the last minute."
            : `${format.rate(perSecond)} requests with keys a second in the last minute, ${share} % of them replayed; ${format.count(active)} running.`}
      </p>
      {census.error && (
        <p class="failure" role="alert">
          The store could not be counted: {census.error}
        </p>
      )}
    </section>
  );
}

function HeldSentence({ census: { stats, error } }: { census: Census }) {
  if (stats === null) return <h1>{error ? "The store cannot be asked." : "Counting…"}</h1>;
  const { held } = stats.states;
  if (held === 0) return <h1>Nothing is held.</h1>;
  const oldest = stats.oldestHeldMs;
  return (
    <h1 class="is-held">
      {format.plural(held, "operation")} {held === 1 ? "is" : "are"} held
      {oldest !== null && (
        <>
          , {held === 1 ? "for" : "the oldest for"}{" "}
          <span class="nowrap">{format.duration(oldest)}</span>
        </>
      )}
      . <a href={linkTo({ page: "records", query: { state: "held" } })}>Decide</a>
    </h1>
  );
}

const CELLS = [
  ["running", "Running", "running"],
  ["completed", "Completed", "executed"],
  ["held", "Held", "held"],
  ["open", "Released", "muted"],
  ["void", "Void", "muted"],
] as const;

function Numbers({ census: { stats, at, tookMs } }: { census: Census }) {
  const counted =
    at === null
      ? "not counted yet"
      : `counted at ${format.clockTime(at)}, in ${format.duration(tookMs)}`;
  return (
    <section class="numbers" aria-label={`Records in the store, ${counted}`} title={counted}>
      {CELLS.map(([state, label, tone]) => (
        <a key={state} href={linkTo({ page: "records", query: { state } })}>
          <span class={`label tone-${tone}`}>{label}</span>
          <b>{stats ? format.count(stats.states[state]) : "–"}</b>
        </a>
      ))}
      <div>
        <span class="label">Size of the store</span>
        <b>{stats?.bytes == null ? "–" : format.bytes(stats.bytes)}</b>
      </div>
    </section>
  );
}

const QUEUED = [
  ["effect", {}, "Effects"],
  ["task", { kind: "task" }, "Durable operations"],
] as const;

/** What is queued, where anything ever was. */
function Queued({ census: { queue } }: { census: Census }) {
  if (queue === null) return null;
  const sum = ({ waiting, done, dead }: { waiting: number; done: number; dead: number }) =>
    waiting + done + dead;
  const shown = QUEUED.filter(([kind]) => sum(queue.states[kind]) > 0);
  if (shown.length === 0) return null;
  return (
    <section class="numbers queued" aria-label="What is queued">
      {shown.map(([kind, query, label]) => {
        const { waiting, dead } = queue.states[kind];
        const dueMs = queue.oldestDueMs[kind];
        return (
          <Fragment key={kind}>
            <a href={linkTo({ page: "queue", query: { ...query, state: "waiting" } })}>
              <span class="label tone-running">{label} waiting</span>
              <b>{format.count(waiting)}</b>
              {dueMs !== null && <small>the oldest due for {format.duration(dueMs)}</small>}
            </a>
            <a href={linkTo({ page: "queue", query: { ...query, state: "dead" } })}>
              <span class={`label tone-${dead > 0 ? "failed" : "muted"}`}>{label} given up</span>
              <b>{format.count(dead)}</b>
            </a>
          </Fragment>
        );
      })}
    </section>
  );
}

function Charts({ overview, isGateway }: { overview: Overview; isGateway: boolean }) {
  const { samples, sightings } = overview;
  const [range, setRange] = useState(() => rangeFor(samples));
  const [, rangeMs, together] = RANGES[range]!;
  const points = useMemo(() => pointsOf(samples, rangeMs, together), [samples, rangeMs, together]);
  const common = { points, rangeMs };
  return (
    <>
      <RangeSwitch range={range} onChange={setRange} />
      {isGateway ? (
        <div class="wide-and-narrow">
          <Flows {...common} />
          <Times {...common} />
          <Happenings sightings={sightings} />
          <div class="stacked">
            <Held {...common} />
            <Records {...common} />
          </div>
        </div>
      ) : (
        <div class="wide-and-narrow">
          <NewestRecords count={overview.census.at} />
          <div class="stacked">
            <Held {...common} />
            <Records {...common} />
          </div>
        </div>
      )}
    </>
  );
}

/** As much as there is to show. */
function rangeFor(samples: Overview["samples"]): number {
  const spanMs = samples.length * 2_000;
  const fitting = RANGES.findIndex(([, ms]) => spanMs <= ms);
  return fitting === -1 ? RANGES.length - 1 : Math.min(fitting, 1);
}

function RangeSwitch({ range, onChange }: { range: number; onChange: (range: number) => void }) {
  return (
    <fieldset class="segments ranges">
      <legend class="hidden">Stretch of time</legend>
      {RANGES.map(([label], index) => (
        <label key={label}>
          <input
            type="radio"
            name="range"
            checked={index === range}
            onChange={() => onChange(index)}
          />
          <span>{label}</span>
        </label>
      ))}
    </fieldset>
  );
}

interface ChartOf {
  points: Point[];
  rangeMs: number;
}

function timesOf(points: Point[]): number[] {
  return points.map(({ at }) => at);
}

function Flows({ points, rangeMs }: ChartOf) {
  const series = FLOWS.map((flow) => ({
    ...{ name: flow, tone: flow },
    values: points.map(({ flows }) => flows[flow]),
  }));
  return (
    <Chart
      title="Requests with keys, a second"
      {...{ times: timesOf(points), rangeMs, series, atLeast: 1, isStacked: true, height: 200 }}
      format={format.rate}
    />
  );
}

function Times({ points, rangeMs }: ChartOf) {
  const series = [
    { name: "executed", values: points.map(({ executedMs }) => executedMs?.median ?? null) },
    {
      ...{ name: "95 %", isDashed: true },
      values: points.map(({ executedMs }) => executedMs?.high ?? null),
    },
    { name: "replayed", values: points.map(({ replayedMs }) => replayedMs?.median ?? null) },
  ].map((one) => ({ ...one, tone: one.name === "replayed" ? "replayed" : "executed" }));
  return (
    <Chart
      title="Median time"
      {...{ times: timesOf(points), rangeMs, series, atLeast: 10, height: 200 }}
      format={format.duration}
    />
  );
}

function Held({ points, rangeMs }: ChartOf) {
  const values = points.map(({ states }) => states?.held ?? null);
  const series = [{ name: "held", tone: "held", values }];
  return (
    <Chart
      title="Held"
      {...{ times: timesOf(points), rangeMs, series, atLeast: 4, height: 130 }}
      format={format.whole}
    />
  );
}

function Records({ points, rangeMs }: ChartOf) {
  const total = ({ states }: Point) =>
    states && Object.values(states).reduce((sum, count) => sum + count, 0);
  const series = [{ name: "in all states", tone: "executed", values: points.map(total) }];
  return (
    <Chart
      title="Records"
      {...{ times: timesOf(points), rangeMs, series, atLeast: 10, height: 130 }}
      format={format.whole}
    />
  );
}
