// A dialog: the browser's own, which keeps the focus inside and gives it back.

import { useEffect, useId, useRef } from "preact/hooks";

interface DialogProps {
  title: string;
  onClose: () => void;
  /** The buttons; without any, there is one that closes. */
  actions?: preact.ComponentChildren;
  onSubmit?: () => void;
  children: preact.ComponentChildren;
}

export function Dialog({ title, onClose, actions, onSubmit, children }: DialogProps) {
  const dialog = useRef<HTMLDialogElement>(null);
  const titleId = useId();
  useEffect(() => {
    const before = document.activeElement;
    dialog.current?.showModal();
    return () => {
      if (before instanceof HTMLElement) before.focus();
    };
  }, []);
  const submit = (event: Event) => {
    event.preventDefault();
    onSubmit?.();
  };
  return (
    <dialog ref={dialog} aria-labelledby={titleId} onClose={onClose}>
      <form method="dialog" onSubmit={submit} noValidate>
        <h2 id={titleId}>{title}</h2>
        <div class="dialog-body">{children}</div>
        <div class="dialog-actions">
          <button type="button" onClick={() => dialog.current?.close()}>
            {actions ? "Cancel" : "Close"}
          </button>
          {actions}
        </div>
      </form>
    </dialog>
  );
}
