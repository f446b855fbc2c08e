// Waiting for what must come, without guessing how long it takes.

/** What was waited for never came. */
export class StageTimeout extends Error {}

const PATIENCE_MS = 30_000;

/** Resolves when the condition holds. @throws {StageTimeout} when it does not within 30 s */
export async function until(condition: () => unknown, what: string): Promise<void> {
  const giveUpAt = performance.now() + PATIENCE_MS;
  while (!condition()) {
    if (performance.now() > giveUpAt) throw new StageTimeout(`${what} did not come about`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

/** The promise's outcome. @throws {StageTimeout} when it does not come within 30 s */
export async function inTime<T>(promise: Promise<T>, what: string): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new StageTimeout(`${what} did not come about`)), PATIENCE_MS);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}
