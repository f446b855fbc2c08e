// Serves the endpoint as SvelteKit would call it: node examples/recipes/sveltekit/start.mjs

import { getRequestListener } from "@hono/node-server";
import { start } from "../start.mjs";

const PATH = /^\/invoices\/([\w-]+)\/payments$/;

await start(
  async () => {
    const { handle } = await import("./hooks.server.js");
    const { POST } = await import("./+server.js");
    return getRequestListener(
      async (request) => {
        const invoice = PATH.exec(new URL(request.url).pathname)?.[1];
        if (invoice === undefined) return new Response(null, { status: 404 });
        if (request.method !== "POST") return new Response(null, { status: 405 });
        const event = { request, params: { invoice }, locals: {} };
        return handle({ event, resolve: async (event) => POST(event) });
      },
      { overrideGlobalObjects: false },
    );
  },
  { path: "/invoices/7/payments", body: (amount) => ({ amount }) },
);
