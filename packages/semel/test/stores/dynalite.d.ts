// dynalite has no types of its own.
declare module "dynalite" {
  import type { Server } from "node:http";
  // biome-ignore lint/style/noDefaultExport: that is how it is exported
  export default function dynalite(options?: { createTableMs?: number }): Server;
}
