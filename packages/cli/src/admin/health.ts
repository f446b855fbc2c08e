// Whether this process lives, and whether it can serve (GW-5). Anybody may ask, so it says no more than
// that.

import type { IncomingMessage, ServerResponse } from "node:http";
import { setTimeout as delay } from "node:timers/promises";
import type { Store } from "semel";

const STORE_MS = 2_000;
/** However often it is asked, the store is asked only once in so long. */
const KEPT_MS = 1_000;
/** An id that no scope and key have. */
const NO_RECORD = "0".repeat(32);

type Readiness = "ready" | "stopping" | "store-unavailable";

export class Health {
  readonly #store: Store;
  #isStopping = false;
  #asked: { at: number; isUp: Promise<boolean> } | undefined;

  constructor(store: Store) {
    this.#store = store;
  }

  /** From now on, no new work is to come here. */
  stopping(): void {
    this.#isStopping = true;
  }

  /** @returns whether it was a question about health, which is answered then */
  answers(request: IncomingMessage, response: ServerResponse): boolean {
    if (request.method !== "GET" && request.method !== "HEAD") return false;
    const path = request.url?.split("?", 1)[0];
    if (path === "/-/healthz") {
      send(response, 200, "ok");
      return true;
    }
    if (path !== "/-/readyz") return false;
    void this.#readiness().then((readiness) => {
      send(response, readiness === "ready" ? 200 : 503, readiness);
    });
    return true;
  }

  async #readiness(): Promise<Readiness> {
    if (this.#isStopping) return "stopping";
    const now = performance.now();
    if (this.#asked === undefined || now - this.#asked.at > KEPT_MS) {
      this.#asked = { at: now, isUp: this.#isUp() };
    }
    const isUp = await this.#asked.isUp;
    if (this.#isStopping) return "stopping";
    return isUp ? "ready" : "store-unavailable";
  }

  #isUp(): Promise<boolean> {
    const answers = this.#store.read(NO_RECORD).then(
      () => true,
      () => false,
    );
    return Promise.race([answers, delay(STORE_MS, false, { ref: false })]);
  }
}

function send(response: ServerResponse, status: number, text: string): void {
  response.writeHead(status, { "Content-Type": "text/plain", "Cache-Control": "no-store" });
  response.end(`${text}\n`);
}
