// A chart over time: lines, or areas one upon the other, with the values of the moment that is pointed
// at, or the last ones, beside their names.

import { useEffect, useId, useMemo, useRef, useState } from "preact/hooks";
import uPlot from "uplot";
import { clockTime } from "../format.ts";
import { useColors } from "./theme.tsx";

export interface Series {
  name: string;
  /** A colour of the style sheet, `--tone-…`. */
  tone: string;
  /** As long as the times; `null`: nothing to show there. */
  values: (number | null)[];
  isDashed?: boolean;
}

interface ChartProps {
  title: string;
  /** Since the Unix epoch, in milliseconds. */
  times: number[];
  series: Series[];
  isStacked?: boolean;
  format(value: number): string;
  /** What is shown at least, so that nothing does not look like much. */
  atLeast: number;
  /** The stretch of time that is shown, in milliseconds. */
  rangeMs: number;
  /** In pixels. */
  height: number;
}

export function Chart(props: ChartProps) {
  const { title, times, series, format, isStacked = false } = props;
  const [pointed, setPointed] = useState<number | null>(null);
  const titleId = useId();
  const at = pointed !== null && pointed < times.length ? pointed : times.length - 1;
  const values = series.map(({ values }) => values[at] ?? null);
  const shown = values.map((value) => (value === null ? "–" : format(value)));
  const summary = series.map(({ name }, index) => `${name} ${shown[index]}`).join(", ");
  const isPointed = at !== times.length - 1;
  return (
    <figure class="chart" aria-labelledby={titleId}>
      <figcaption>
        <span id={titleId} class="chart-title">
          {title}
        </span>
        {isPointed && <span class="chart-when">{clockTime(times[at]!)}</span>}
        <ul class="legend">
          {series.map(({ name, tone, isDashed }, index) => (
            <li key={name} class={isDashed ? `tone-${tone} is-dashed` : `tone-${tone}`}>
              {name} <b>{shown[index]}</b>
            </li>
          ))}
        </ul>
      </figcaption>
      <div role="img" aria-label={`${title}. Now: ${summary}`}>
        <Plot {...props} isStacked={isStacked} onPoint={setPointed} />
      </div>
    </figure>
  );
}

function Plot({
  times,
  series,
  isStacked,
  format,
  atLeast,
  rangeMs,
  height,
  onPoint,
}: ChartProps & { isStacked: boolean; onPoint: (index: number | null) => void }) {
  const place = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot>(undefined);
  const colors = useColors();
  const form = series.map(({ name, tone, isDashed }) => `${name}/${tone}/${isDashed}`).join();
  const data = useMemo(() => dataOf(times, series, isStacked), [times, series, isStacked]);
  useEffect(() => {
    const target = place.current!;
    const size = { width: target.clientWidth, height };
    const options = optionsOf({ series, isStacked, format, atLeast, onPoint, size });
    const made = new uPlot(options, data, target);
    plot.current = made;
    const resizing = new ResizeObserver(() => {
      made.setSize({ width: target.clientWidth, height });
    });
    resizing.observe(target);
    return () => {
      resizing.disconnect();
      made.destroy();
    };
  }, [colors, form, isStacked, atLeast]);
  useEffect(() => {
    const made = plot.current;
    if (!made) return;
    const last = (times.at(-1) ?? Date.now()) / 1_000;
    made.batch(() => {
      made.setData(data, false);
      made.setScale("x", { min: last - rangeMs / 1_000, max: last });
    });
  }, [data, rangeMs, colors, form]);
  return <div ref={place} class="plot" data-height={height} />;
}

function dataOf(times: number[], series: Series[], isStacked: boolean): uPlot.AlignedData {
  const rows = series.map(({ values }) => values);
  if (isStacked) {
    for (let index = 1; index < rows.length; index++) {
      const below = rows[index - 1]!;
      rows[index] = rows[index]!.map((value, at) => (value ?? 0) + (below[at] ?? 0));
    }
  }
  return [times.map((at) => at / 1_000), ...rows];
}

interface PlotOptions {
  series: Series[];
  isStacked: boolean;
  format(value: number): string;
  atLeast: number;
  onPoint: (index: number | null) => void;
  size: { width: number; height: number };
}

function optionsOf({
  series,
  isStacked,
  format,
  atLeast,
  onPoint,
  size,
}: PlotOptions): uPlot.Options {
  const style = getComputedStyle(document.documentElement);
  const color = (name: string) => style.getPropertyValue(name).trim();
  const axis: uPlot.Axis = {
    stroke: color("--muted"),
    grid: { stroke: color("--line"), width: 1 },
    ticks: { show: false },
    font: `11px ${style.getPropertyValue("--sans")}`,
  };
  const lines = series.map(({ tone, isDashed }, index): uPlot.Series => {
    const stroke = color(`--tone-${tone}`);
    return {
      stroke,
      width: isStacked ? 1 : 1.75,
      points: { show: false },
      ...(isDashed && { dash: [5, 4] }),
      ...(isStacked && index === 0 && { fill: tint(stroke) }),
    };
  });
  const bands = series.slice(1).map(({ tone }, index): uPlot.Band => {
    return { series: [index + 2, index + 1], fill: tint(color(`--tone-${tone}`)) };
  });
  return {
    ...{ ...size, padding: [10, 6, 0, 0], legend: { show: false } },
    series: [{}, ...lines],
    ...(isStacked && { bands }),
    scales: { y: { range: (_plot, _min, max) => [0, Math.max(atLeast, (max ?? 0) * 1.12)] } },
    axes: [
      {
        ...axis,
        grid: { show: false },
        values: (_plot, ticks) => ticks.map(hour),
        space: 56,
        size: 26,
      },
      { ...axis, values: (_plot, ticks) => ticks.map(format), size: 52, space: 34 },
    ],
    cursor: {
      sync: { key: "semel" },
      y: false,
      points: { show: !isStacked, size: 6 },
      drag: { x: false, y: false },
    },
    hooks: { setCursor: [({ cursor }) => onPoint(cursor.idx ?? null)] },
  };
}

function hour(seconds: number): string {
  const text = clockTime(seconds * 1_000);
  return text.endsWith(":00") ? text.slice(0, -3) : text;
}

/** For areas: the line's own colour, which is written `#rrggbb`, a third of it. */
function tint(color: string): string {
  return `${color}55`;
}
