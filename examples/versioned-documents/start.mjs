// Starts the documents service. DATABASE_URL says where Postgres is, LISTEN=HOST:PORT chooses another
// address, Ctrl-C ends it.

import pg from "pg";
import { createTable, documentsApi } from "./api.mjs";

const [host, port] = (process.env.LISTEN ?? "127.0.0.1:8090").split(":");
const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL });
pool.on("error", (error) => console.error(`Postgres: ${error.message}`));
await createTable(pool);

const server = documentsApi(pool);
server.listen(Number(port), host, () => {
  const address = /** @type {import("node:net").AddressInfo} */ (server.address());
  console.log(`Listening on http://${address.address}:${address.port}`);
});

for (const signal of ["SIGINT", "SIGTERM"]) {
  process.once(signal, () => {
    server.close(() => void pool.end());
    server.closeIdleConnections();
  });
}
