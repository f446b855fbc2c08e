// Light, dark, or as the system is: chosen here, kept by the browser, set before the page is painted by
// `theme.js`.

import { useEffect, useState } from "preact/hooks";
import { Icon } from "./icon.tsx";

const THEMES = ["system", "light", "dark"] as const;
type Theme = (typeof THEMES)[number];

const ICONS = { system: "system", light: "sun", dark: "moon" } as const;
const STORED = "semel-theme";
const CHANGED = "semel-theme-changed";

function chosen(): Theme {
  const theme = document.documentElement.dataset["theme"];
  return THEMES.find((one) => one === theme) ?? "system";
}

function choose(theme: Theme): void {
  const root = document.documentElement;
  if (theme === "system") delete root.dataset["theme"];
  else root.dataset["theme"] = theme;
  try {
    if (theme === "system") localStorage.removeItem(STORED);
    else localStorage.setItem(STORED, theme);
  } catch {
    // Storage may be forbidden; then it lasts as long as the page.
  }
  dispatchEvent(new Event(CHANGED));
}

/** Changes whenever colours do: what is drawn on a canvas has to be drawn again. */
export function useColors(): number {
  const [turn, setTurn] = useState(0);
  useEffect(() => {
    const onChange = () => setTurn((before) => before + 1);
    const system = matchMedia("(prefers-color-scheme: dark)");
    system.addEventListener("change", onChange);
    addEventListener(CHANGED, onChange);
    return () => {
      system.removeEventListener("change", onChange);
      removeEventListener(CHANGED, onChange);
    };
  }, []);
  return turn;
}

export function ThemeSwitch() {
  const [theme, setTheme] = useState(chosen);
  const next = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length]!;
  const name = `Theme: ${theme}. Change to ${next}`;
  const onClick = () => {
    choose(next);
    setTheme(next);
  };
  return (
    <button type="button" class="quiet square" aria-label={name} title={name} onClick={onClick}>
      <Icon name={ICONS[theme]} />
    </button>
  );
}
