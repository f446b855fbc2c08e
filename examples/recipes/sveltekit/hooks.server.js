// Who calls. In an application this is src/hooks.server.js.

import { accountOf } from "../shop.mjs";

/**
 * @typedef {{ request: Request, params: Record<string, string>, locals: { account?: string | undefined } }} RequestEvent
 * @param {{ event: RequestEvent, resolve(event: RequestEvent): Promise<Response> }} input
 */
export async function handle({ event, resolve }) {
  event.locals.account = accountOf(event.request.headers.get("authorization"));
  return resolve(event);
}
