// Single keys that go places, a page that lists them, and a switch for those whose tools press keys by
// themselves (WCAG 2.1.4).

import { useEffect, useRef, useState } from "preact/hooks";
import { goTo } from "../router.ts";
import { Dialog } from "./dialog.tsx";

const STORED = "semel-shortcuts";
const KEYS: readonly [keys: string, what: string][] = [
  ["/", "search"],
  ["j, k", "next and previous record, or event"],
  ["g o", "overview"],
  ["g r", "records"],
  ["g h", "what is held"],
  ["g q", "what is queued"],
  ["?", "this list"],
  ["Esc", "close, or leave the search"],
];
const SEQUENCE_MS = 1_500;

function areOn(): boolean {
  try {
    return localStorage.getItem(STORED) !== "off";
  } catch {
    return true;
  }
}

export function Shortcuts() {
  const [isOpen, setOpen] = useState(false);
  const [on, setOn] = useState(areOn);
  const previous = useRef({ key: "", at: 0 });
  // Read at each key: an effect that depended on the switch would run only after the next paint.
  const isOn = useRef(on);
  useEffect(() => {
    const onKey = (event: KeyboardEvent) => {
      if (!isOn.current) return;
      if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target)) return;
      if (document.querySelector("dialog[open]")) return;
      const { key, at } = previous.current;
      const isSecond = key === "g" && event.timeStamp - at < SEQUENCE_MS;
      previous.current = { key: event.key, at: event.timeStamp };
      if (isSecond ? travel(event.key) : act(event.key, () => setOpen(true))) {
        event.preventDefault();
      }
    };
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  }, []);
  const onSwitch = (event: Event) => {
    const { checked } = event.currentTarget as HTMLInputElement;
    isOn.current = checked;
    setOn(checked);
    try {
      localStorage.setItem(STORED, checked ? "on" : "off");
    } catch {
      // Storage may be forbidden; then it lasts as long as the page.
    }
  };
  return (
    <>
      <footer class="bottom">
        <button type="button" class="quiet" onClick={() => setOpen(true)}>
          Keyboard shortcuts
        </button>
      </footer>
      {isOpen && (
        <Dialog title="Keyboard shortcuts" onClose={() => setOpen(false)}>
          <table class="keys">
            <tbody>
              {KEYS.map(([keys, what]) => (
                <tr key={keys}>
                  <th scope="row">
                    <kbd>{keys}</kbd>
                  </th>
                  <td>{what}</td>
                </tr>
              ))}
            </tbody>
          </table>
          <label class="check">
            <input type="checkbox" checked={on} onChange={onSwitch} />
            Single keys do these things
          </label>
        </Dialog>
      )}
    </>
  );
}

function isTyping(target: EventTarget | null): boolean {
  return target instanceof HTMLElement && target.matches("input, textarea, select");
}

/** @returns whether the key means something */
function act(key: string, help: () => void): boolean {
  switch (key) {
    case "/": {
      const search = document.querySelector<HTMLInputElement>("input[type=search]");
      if (search) search.focus();
      else goTo({ page: "records", query: {} });
      return true;
    }
    case "?":
      help();
      return true;
    case "j":
      return step(1);
    case "k":
      return step(-1);
    default:
      return false;
  }
}

function travel(key: string): boolean {
  switch (key) {
    case "o":
      goTo({ page: "overview" });
      return true;
    case "r":
      goTo({ page: "records", query: {} });
      return true;
    case "h":
      goTo({ page: "records", query: { state: "held" } });
      return true;
    case "q":
      goTo({ page: "queue", query: {} });
      return true;
    default:
      return false;
  }
}

/** Moves the focus along the rows of the page's table. */
function step(by: number): boolean {
  const links = [...document.querySelectorAll<HTMLAnchorElement>("tbody a.row-link")];
  if (links.length === 0) return false;
  const at = links.indexOf(document.activeElement as HTMLAnchorElement);
  const next = at === -1 ? (by > 0 ? 0 : links.length - 1) : at + by;
  links[Math.max(0, Math.min(links.length - 1, next))]?.focus();
  return true;
}
