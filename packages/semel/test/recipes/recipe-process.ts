// A recipe as somebody tries it out: `node examples/recipes/…/start.mjs`, in a process of its own.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";

export const RECIPES = join(import.meta.dirname, "../../../../examples/recipes");

export interface Answer {
  status: number;
  replayed: boolean;
  /** Semel's code, from a problem or from an error of tRPC's. */
  code: string | undefined;
  retry: string | undefined;
  /** What the operation gave: the body, or the data of tRPC. */
  value: unknown;
}

export interface RecipeProcess {
  address: string;
  /** The printed curl lines. */
  curlLines: string[];
  kill(signal: "SIGTERM" | "SIGKILL"): Promise<void>;
}

/** Starts a recipe and waits until it has said how to try it. */
export async function startRecipe(
  name: string,
  environment: Record<string, string>,
): Promise<RecipeProcess> {
  const script = join(RECIPES, name, "start.mjs");
  const child = spawn(process.execPath, ["--no-warnings", script], {
    env: { ...process.env, PORT: "0", ...environment },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const exited = once(child, "close");
  let text = "";
  const printed = new Promise<void>((resolve, reject) => {
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding("utf8").on("data", (chunk: string) => {
        text += chunk;
        if (text.includes("Ctrl-C ends it.")) resolve();
      });
    }
    child.once("close", () => reject(new Error(`${name} ended before it served:\n${text}`)));
  });
  await printed;
  const curlLines = [...text.matchAll(/^ {3}(curl -i .*)$/gm)].map(([, line]) => line!);
  return {
    address: /http:\/\/127\.0\.0\.1:\d+/.exec(curlLines[0]!)![0],
    curlLines,
    async kill(signal) {
      child.kill(signal);
      await exited;
    },
  };
}

/** Does what a printed `curl -i` line would do, where there may be no curl. */
export async function curl(line: string): Promise<Answer> {
  const url = /^curl -i (\S+)/.exec(line)![1]!;
  const headers = [...line.matchAll(/ -H '([^:']+): ([^']*)'/g)].map(
    ([, name, value]): [string, string] => [name!, value!],
  );
  const body = / -d '([^']*)'$/.exec(line)![1]!;
  return answerOf(await fetch(url, { method: "POST", headers, body }));
}

/** What an answer says, whichever recipe gave it. */
export async function answerOf(response: Response): Promise<Answer> {
  const text = await response.text();
  const body = parsed(text);
  const problem = body?.error?.data?.idempotency ?? (body?.type ? body : undefined);
  return {
    status: response.status,
    replayed: response.headers.get("idempotent-replayed") === "true",
    code: problem?.code,
    retry: problem?.retry,
    value: body?.result?.data ?? body,
  };
}

interface Body {
  type?: string;
  code?: string;
  retry?: string;
  result?: { data: unknown };
  error?: { data?: { idempotency?: { code: string; retry: string } } };
}

/** A server that failed may answer with plain text. */
function parsed(text: string): Body | undefined {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
