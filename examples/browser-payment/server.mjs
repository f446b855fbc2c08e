// Starts the shop, with answers slow enough to reload the page in between. SEMEL_LISTEN=HOST:PORT
// chooses another address, Ctrl-C ends it.

import { setTimeout as delay } from "node:timers/promises";
import { shop } from "./app.mjs";

const ANSWER_MS = 5_000;
const [host, port] = (process.env.SEMEL_LISTEN ?? "127.0.0.1:8080").split(":");

const { server } = shop({ beforeAnswer: () => delay(ANSWER_MS) });
server.on("error", (error) => {
  console.error(`${error.message}. To choose another address: SEMEL_LISTEN=127.0.0.1:8081`);
  process.exitCode = 1;
});
server.listen(Number(port), host, () => {
  const address = server.address();
  const url = `http://${host}:${typeof address === "object" ? address?.port : port}`;
  console.log(`Listening on ${url}

1. Open ${url}/ and click "Pay".
2. Reload the page before the answer comes, five seconds later; or open it in a second tab and pay there.
3. It is paid once: ${url}/payments
`);
});
