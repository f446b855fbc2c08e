// Answers that are ready in one turn of the event loop leave together at its end: a client that is
// woken once reads them all, and waking it costs more than writing.

let turn: Promise<void> | undefined;

/** Resolves when what is under way in this turn of the event loop has been done. */
export function turnEnd(): Promise<void> {
  turn ??= new Promise((resolve) => {
    setImmediate(() => {
      turn = undefined;
      resolve();
    });
  });
  return turn;
}
