// Short words about what has just been done, also for those who do not see them.

import { createContext } from "preact";
import { useCallback, useContext, useEffect, useState } from "preact/hooks";

const SHOWN_MS = 8_000;

interface Notice {
  text: string;
  isFailure: boolean;
}

type Tell = (text: string, isFailure?: boolean) => void;

const Telling = createContext<Tell>(() => {});

/** @returns what shows a notice */
export function useNotice(): Tell {
  return useContext(Telling);
}

export function NoticeProvider({ children }: { children: preact.ComponentChildren }) {
  const [notice, setNotice] = useState<Notice>();
  const tell = useCallback<Tell>((text, isFailure = false) => setNotice({ text, isFailure }), []);
  useEffect(() => {
    if (notice === undefined) return undefined;
    const timer = setTimeout(() => setNotice(undefined), SHOWN_MS);
    return () => clearTimeout(timer);
  }, [notice]);
  return (
    <Telling.Provider value={tell}>
      {children}
      <div class="notices" role="status">
        {notice && <p class={notice.isFailure ? "notice is-failure" : "notice"}>{notice.text}</p>}
      </div>
    </Telling.Provider>
  );
}
