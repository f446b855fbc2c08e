// Serves the route as Next.js would call it: node examples/recipes/next/start.mjs

import { getRequestListener } from "@hono/node-server";
import { start } from "../start.mjs";

const PATH = /^\/invoices\/([\w-]+)\/payments$/;

await start(
  async () => {
    const { POST } = await import("./route.js");
    return getRequestListener(
      async (request) => {
        const invoice = PATH.exec(new URL(request.url).pathname)?.[1];
        if (invoice === undefined) return new Response(null, { status: 404 });
        if (request.method !== "POST") return new Response(null, { status: 405 });
        return POST(request, { params: Promise.resolve({ invoice }) });
      },
      { overrideGlobalObjects: false },
    );
  },
  { path: "/invoices/7/payments", body: (amount) => ({ amount }) },
);
