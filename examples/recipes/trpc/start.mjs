// Serves the router with tRPC's standalone adapter: node examples/recipes/trpc/start.mjs

import { createHTTPHandler } from "@trpc/server/adapters/standalone";
import { start } from "../start.mjs";

await start(
  async () => {
    const { createContext, router } = await import("./router.mjs");
    return createHTTPHandler({ router, createContext });
  },
  { path: "/pay", body: (amount) => ({ invoice: "7", amount }) },
);
