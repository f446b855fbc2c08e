// What can be decided about a record, each with a dialog that says what follows from it.

import { useState } from "preact/hooks";
import type { Decided, NameBody, RecordRow } from "../../../src/admin/contract.ts";
import { type ApiError, api } from "../api.ts";
import { Dialog } from "./dialog.tsx";
import { useNotice } from "./notice.tsx";
import { ResolveDialog } from "./resolve-dialog.tsx";

interface DecisionsProps {
  record: RecordRow;
  isGateway: boolean;
  onDecided: () => Promise<void>;
}

type Open = "resolve" | "void" | "delete" | undefined;

/** Carries a decision out, and says what came of it. */
function useDecide(onDecided: () => Promise<void>) {
  const tell = useNotice();
  return async (asked: Promise<Decided>, said: string) => {
    try {
      const decided = await asked;
      if (decided.done) tell(said);
      else tell(`It was too late: the record is ${decided.state} now.`, true);
      await onDecided();
    } catch (error) {
      tell((error as ApiError).message, true);
    }
  };
}

function voiding(name: NameBody): [asked: Promise<Decided>, said: string] {
  return [api.void(name), `${name.key} will never run.`];
}

/** For a key that nobody has asked for yet: it can be made sure that it never runs. */
export function VoidUnseen({
  name,
  onDecided,
}: {
  name: NameBody;
  onDecided: () => Promise<void>;
}) {
  const [isOpen, setOpen] = useState(false);
  const decide = useDecide(async () => {
    setOpen(false);
    await onDecided();
  });
  return (
    <div class="decisions">
      <button type="button" onClick={() => setOpen(true)}>
        Void…
      </button>
      {isOpen && (
        <VoidDialog
          name={name.key}
          onClose={() => setOpen(false)}
          onVoid={() => void decide(...voiding(name))}
        >
          <p>
            Nobody has asked for it yet under this scope and key, or its record has expired. It is
            void for as long as a record is kept.
          </p>
        </VoidDialog>
      )}
    </div>
  );
}

export function Decisions({ record, isGateway, onDecided }: DecisionsProps) {
  const [open, setOpen] = useState<Open>();
  const close = () => setOpen(undefined);
  const decide = useDecide(async () => {
    close();
    await onDecided();
  });
  const { state, scope, key } = record;
  const name = { scope, key };
  return (
    <div class="decisions">
      {state === "held" && (
        <button type="button" class="primary" onClick={() => setOpen("resolve")}>
          Resolve…
        </button>
      )}
      {(state === "held" || state === "open") && (
        <button type="button" onClick={() => setOpen("void")}>
          Void…
        </button>
      )}
      {state !== "running" && (
        <button type="button" onClick={() => setOpen("delete")}>
          Forget…
        </button>
      )}
      {open === "resolve" && (
        <ResolveDialog
          record={record}
          isGateway={isGateway}
          onClose={close}
          onResolve={(body, said) => void decide(api.resolve(body), said)}
        />
      )}
      {open === "void" && (
        <VoidDialog name={key} onClose={close} onVoid={() => void decide(...voiding(name))}>
          {state === "held" && (
            <p>If it was applied, that stays so: to void it says nothing about what was done.</p>
          )}
        </VoidDialog>
      )}
      {open === "delete" && (
        <ForgetDialog
          name={key}
          onClose={close}
          onForget={() => void decide(api.delete(name), `${key} is forgotten.`)}
        />
      )}
    </div>
  );
}

function VoidDialog({
  name,
  onClose,
  onVoid,
  children,
}: {
  name: string;
  onClose: () => void;
  onVoid: () => void;
  children: preact.ComponentChildren;
}) {
  return (
    <Dialog
      title="Make sure that it never runs"
      onClose={onClose}
      onSubmit={onVoid}
      actions={
        <button type="submit" class="primary">
          Never run it
        </button>
      }
    >
      <p>
        Callers of <span class="mono">{name}</span> are told that it is void, and that a new
        operation needs a new key.
      </p>
      {children}
    </Dialog>
  );
}

function ForgetDialog({
  name,
  onClose,
  onForget,
}: {
  name: string;
  onClose: () => void;
  onForget: () => void;
}) {
  const [isKnown, setKnown] = useState(false);
  return (
    <Dialog
      title="Forget this record"
      onClose={onClose}
      onSubmit={() => isKnown && onForget()}
      actions={
        <button type="submit" class="danger" disabled={!isKnown}>
          Forget it
        </button>
      }
    >
      <p>
        <span class="mono">{name}</span> may run again, as if it had never been. To decide about
        what is held, resolve it instead.
      </p>
      <label class="check">
        <input
          type="checkbox"
          checked={isKnown}
          onChange={(event) => setKnown(event.currentTarget.checked)}
        />
        What it did may be done once more
      </label>
    </Dialog>
  );
}
