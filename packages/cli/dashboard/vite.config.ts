// Builds the dashboard into static files beside the command, which serves them.

import { defineConfig } from "vite";

export default defineConfig({
  // Also behind a proxy that serves it under a path of its own.
  base: "./",
  build: {
    outDir: "../dist/dashboard",
    emptyOutDir: true,
    // The policy of the page allows nothing inline.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    // A busy machine is no reason for a warning.
    rolldownOptions: { checks: { bundlerTimings: false } },
  },
});
