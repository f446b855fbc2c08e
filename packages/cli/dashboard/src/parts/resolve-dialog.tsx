// Asks what was found out about an operation that is held.

import { useId, useState } from "preact/hooks";
import type { RecordRow, ResolveBody } from "../../../src/admin/contract.ts";
import { Dialog } from "./dialog.tsx";

interface ResolveDialogProps {
  record: RecordRow;
  /** Behind a gateway, everything is a response of HTTP. */
  isGateway: boolean;
  onClose: () => void;
  onResolve: (body: ResolveBody, said: string) => void;
}

type Kind = "response" | "value";

export function ResolveDialog({ record, isGateway, onClose, onResolve }: ResolveDialogProps) {
  const { scope, key, reason } = record;
  const [outcome, setOutcome] = useState<"not-applied" | "applied">();
  const [kind, setKind] = useState<Kind>("response");
  const [status, setStatus] = useState("200");
  const [headers, setHeaders] = useState("Content-Type: application/json");
  const [body, setBody] = useState("");
  const [value, setValue] = useState("null");
  const [problem, setProblem] = useState<string>();

  const submit = () => {
    if (outcome === undefined) return setProblem("Say what was found out.");
    const name = { scope, key };
    if (outcome === "not-applied") {
      return onResolve({ ...name, outcome }, `${key} may run again.`);
    }
    const said = `Callers of ${key} get this answer.`;
    if (kind === "value") {
      const parsed = parsedValue(value);
      if (!parsed) return setProblem("The value is not JSON.");
      return onResolve({ ...name, outcome, value: parsed[0] }, said);
    }
    const lines = headerLines(headers);
    if (!/^[2-9]\d\d$/.test(status)) return setProblem("The status is a number from 200 to 999.");
    if (!lines) return setProblem("Write a header a line: Name: value");
    const response = { status: Number(status), headers: lines, body };
    return onResolve({ ...name, outcome, response }, said);
  };

  return (
    <Dialog
      title="Resolve"
      onClose={onClose}
      onSubmit={submit}
      actions={
        <button type="submit" class="primary">
          {outcome === "applied"
            ? "Answer with this"
            : outcome === "not-applied"
              ? "Let it run again"
              : "Resolve"}
        </button>
      }
    >
      <p>
        <span class="mono">{key}</span> is held: {reason ?? "lease-lapsed"}. Look into the records
        of whatever it asks first; what you say here is believed.
      </p>
      <Choice
        name="outcome"
        isChosen={outcome === "not-applied"}
        onChoose={() => setOutcome("not-applied")}
        title="It was not applied"
        detail="The next request with this key runs it."
      />
      <Choice
        name="outcome"
        isChosen={outcome === "applied"}
        onChoose={() => setOutcome("applied")}
        title="It was applied"
        detail="Callers get the answer that you give here, and nothing runs."
      />
      {outcome === "applied" && (
        <div class="answer-fields">
          {!isGateway && (
            <fieldset class="segments">
              <legend class="hidden">Kind of answer</legend>
              {(["response", "value"] as const).map((one) => (
                <label key={one}>
                  <input
                    type="radio"
                    name="kind"
                    checked={kind === one}
                    onChange={() => setKind(one)}
                  />
                  <span>{one === "response" ? "HTTP response" : "Value of run()"}</span>
                </label>
              ))}
            </fieldset>
          )}
          {kind === "response" ? (
            <>
              <Field label="Status" value={status} onChange={setStatus} isShort />
              <Field label="Headers" value={headers} onChange={setHeaders} rows={2} />
              <Field label="Body" value={body} onChange={setBody} rows={5} />
            </>
          ) : (
            <Field label="Value, as JSON" value={value} onChange={setValue} rows={5} />
          )}
        </div>
      )}
      {problem && (
        <p class="failure" role="alert">
          {problem}
        </p>
      )}
    </Dialog>
  );
}

function Choice({
  name,
  isChosen,
  onChoose,
  title,
  detail,
}: {
  name: string;
  isChosen: boolean;
  onChoose: () => void;
  title: string;
  detail: string;
}) {
  return (
    <label class="choice">
      <input type="radio" name={name} checked={isChosen} onChange={onChoose} />
      <span>
        <b>{title}</b>
        <span class="detail">{detail}</span>
      </span>
    </label>
  );
}

function Field({
  label,
  value,
  onChange,
  rows,
  isShort,
}: {
  label: string;
  value: string;
  onChange: (value: string) => void;
  rows?: number;
  isShort?: boolean;
}) {
  const id = useId();
  return (
    <div class="field">
      <label for={id}>{label}</label>
      {rows === undefined ? (
        <input
          id={id}
          class={isShort ? "mono is-short" : "mono"}
          value={value}
          inputMode="numeric"
          onInput={(event) => onChange(event.currentTarget.value)}
        />
      ) : (
        <textarea
          id={id}
          class="mono"
          rows={rows}
          spellcheck={false}
          value={value}
          onInput={(event) => onChange(event.currentTarget.value)}
        />
      )}
    </div>
  );
}

function parsedValue(text: string): [value: unknown] | undefined {
  try {
    return [JSON.parse(text)];
  } catch {
    return undefined;
  }
}

/** `undefined` when a line is none. */
function headerLines(text: string): [name: string, value: string][] | undefined {
  const lines = text.split("\n").filter((line) => line.trim() !== "");
  const headers = lines.map((line) => /^([^\s:]+):\s*(.*?)\s*$/.exec(line));
  if (headers.some((match) => match === null)) return undefined;
  return headers.map((match) => [match![1]!, match![2]!]);
}
