// Calls the function as a function URL would: node examples/recipes/lambda/start.mjs
// DynamoDB is dynalite, in memory, unless AWS_ENDPOINT_URL_DYNAMODB names another.

import { once } from "node:events";
import { buffer } from "node:stream/consumers";
import { CreateTableCommand, DynamoDBClient } from "@aws-sdk/client-dynamodb";
import { dynamodbTable } from "semel/dynamodb";
import { accountOf } from "../shop.mjs";
import { start } from "../start.mjs";

const TIMEOUT_MS = 30_000;

process.env.AWS_REGION ??= "local";
process.env.AWS_ACCESS_KEY_ID ??= "local";
process.env.AWS_SECRET_ACCESS_KEY ??= "local";
process.env.AWS_ENDPOINT_URL_DYNAMODB ??= await dynalite();
await createTable(process.env.SEMEL_TABLE ?? "semel");

await start(
  async () => {
    const { handler } = await import("./handler.mjs");
    return async (request, response) => {
      const endsAt = Date.now() + TIMEOUT_MS;
      const event = functionUrlEvent(request, await buffer(request));
      const context = { getRemainingTimeInMillis: () => Math.max(0, endsAt - Date.now()) };
      // A function that throws is a 502 of the function URL.
      const result = await handler(event, context).catch((error) => {
        console.error(error);
        return {
          statusCode: 502,
          headers: {},
          body: "Internal Server Error",
          isBase64Encoded: false,
        };
      });
      response.writeHead(result.statusCode, result.headers);
      response.end(Buffer.from(result.body, result.isBase64Encoded ? "base64" : "utf8"));
    };
  },
  { path: "/invoices/7/payments", body: (amount) => ({ amount }) },
);

/**
 * @param {import("node:http").IncomingMessage} request
 * @param {Buffer} body
 * @returns {import("./event-types.d.ts").HttpEvent}
 */
function functionUrlEvent({ method = "GET", url = "/", headers }, body) {
  const [rawPath = "/", ...query] = url.split("?");
  const callerId = accountOf(headers.authorization);
  return {
    version: "2.0",
    rawPath,
    rawQueryString: query.join("?"),
    headers: Object.fromEntries(
      Object.entries(headers).map(([name, value]) => [name, String(value)]),
    ),
    requestContext: {
      domainName: "local.lambda-url.eu-central-1.on.aws",
      // With AWS_IAM a function URL checks a signature; here a token stands for it.
      ...(callerId && { authorizer: { iam: { callerId } } }),
      http: { method },
    },
    body: body.toString("base64"),
    isBase64Encoded: true,
  };
}

async function dynalite() {
  const { default: dynalite } = await import("dynalite");
  const server = dynalite({ createTableMs: 0 });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = /** @type {import("node:net").AddressInfo} */ (server.address());
  return `http://127.0.0.1:${port}`;
}

/** @param {string} table */
async function createTable(table) {
  const client = new DynamoDBClient({});
  try {
    await client.send(new CreateTableCommand(dynamodbTable(table)));
  } catch (error) {
    if (/** @type {Error} */ (error).name !== "ResourceInUseException") throw error;
  } finally {
    client.destroy();
  }
}
