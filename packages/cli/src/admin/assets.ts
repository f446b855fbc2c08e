// The dashboard's files, read once, as its build left them beside this module.

import { readdirSync, readFileSync } from "node:fs";
import type { IncomingMessage, ServerResponse } from "node:http";
import { extname, sep } from "node:path";
import { Failure } from "../failure.ts";

const FOLDER = new URL("../dashboard/", import.meta.url);

const TYPES: Record<string, string> = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".css": "text/css; charset=utf-8",
  ".svg": "image/svg+xml",
};

interface Asset {
  type: string;
  bytes: Buffer;
  /** Its name changes with its content. */
  isImmutable: boolean;
}

export class Assets {
  readonly #assets = new Map<string, Asset>();

  /** @throws {Failure} when the dashboard has not been built */
  constructor() {
    for (const path of files()) {
      const bytes = readFileSync(new URL(path, FOLDER));
      const type = TYPES[extname(path)] ?? "application/octet-stream";
      this.#assets.set(`/${path}`, { type, bytes, isImmutable: path.startsWith("assets/") });
    }
    const page = this.#assets.get("/index.html");
    if (page) this.#assets.set("/", page);
  }

  /** @returns whether there is such a file, which is answered with then */
  answers(request: IncomingMessage, response: ServerResponse, path: string): boolean {
    const asset = this.#assets.get(path);
    if (!asset || (request.method !== "GET" && request.method !== "HEAD")) return false;
    response.writeHead(200, {
      "Content-Type": asset.type,
      "Content-Length": asset.bytes.length,
      "Cache-Control": asset.isImmutable ? "private, max-age=31536000, immutable" : "no-cache",
    });
    response.end(request.method === "HEAD" ? undefined : asset.bytes);
    return true;
  }
}

function files(): string[] {
  try {
    const paths = readdirSync(FOLDER, { recursive: true, encoding: "utf8" });
    // Folders have no extension, and files all have one.
    return paths.filter((path) => extname(path) !== "").map((path) => path.replaceAll(sep, "/"));
  } catch (cause) {
    throw new Failure("the dashboard is missing from this installation: install @semel/cli anew", {
      cause,
    });
  }
}
