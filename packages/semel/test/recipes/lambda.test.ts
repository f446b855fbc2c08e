// The Lambda recipe with events as AWS documents them, its records in DynamoDB (dynalite). Not tested on
// AWS itself.

import { once } from "node:events";
import type { Server } from "node:http";
import { join } from "node:path";
import { CreateTableCommand, DynamoDBClient } from "@aws-sdk/client-dynamodb";
import { DynamoDBDocument } from "@aws-sdk/lib-dynamodb";
import dynalite from "dynalite";
import { Idempotency } from "semel";
import { dynamodbTable } from "semel/dynamodb";
import { idempotent } from "semel/fetch";
import { memoryStore } from "semel/memory";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { type Bank, openBank } from "./bank.ts";
import { functionUrlEvent, httpApiEvent, restApiEvent, type Sent } from "./lambda-events.ts";
import { RECIPES } from "./recipe-process.ts";

interface Result {
  statusCode: number;
  headers: Record<string, string>;
  cookies?: string[];
  multiValueHeaders?: Record<string, string[]>;
  body: string;
  isBase64Encoded: boolean;
}
type Handler = (event: unknown, context: { getRemainingTimeInMillis(): number }) => Promise<Result>;
interface Events {
  lambdaHandler(handler: (request: Request) => Promise<Response>): Handler;
  requestOf(event: unknown): Request;
  resultOf(response: Response, event: unknown): Promise<Result>;
  callerOf(request: Request): string | undefined;
}

const TABLE = "semel-lambda-events";
const KINDS = [
  { kind: "a function URL", eventOf: functionUrlEvent, caller: "iam:alice" },
  { kind: "an HTTP API", eventOf: httpApiEvent, caller: "jwt:https://issuer.example alice" },
  {
    kind: "a REST API",
    eventOf: restApiEvent,
    caller: "jwt:https://cognito-idp.example/pool alice",
  },
];
const CONTEXT = { getRemainingTimeInMillis: () => 30_000 };

let bank: Bank;
let dynamodb: Server;
let client: DynamoDBClient;
let events: Events;
let handler: Handler;

beforeAll(async () => {
  bank = await openBank();
  dynamodb = dynalite({ createTableMs: 0 });
  dynamodb.listen(0, "127.0.0.1");
  await once(dynamodb, "listening");
  const { port } = dynamodb.address() as { port: number };
  Object.assign(process.env, {
    BANK_URL: bank.url,
    SEMEL_TABLE: TABLE,
    AWS_REGION: "local",
    AWS_ACCESS_KEY_ID: "local",
    AWS_SECRET_ACCESS_KEY: "local",
    AWS_ENDPOINT_URL_DYNAMODB: `http://127.0.0.1:${port}`,
  });
  client = new DynamoDBClient({});
  await client.send(new CreateTableCommand(dynamodbTable(TABLE)));
  events = await import(join(RECIPES, "lambda/events.mjs"));
  ({ handler } = await import(join(RECIPES, "lambda/handler.mjs")));
});

afterAll(async () => {
  client.destroy();
  dynamodb.close();
  await bank.close();
});

let keys = 0;
let key: string;
beforeEach(() => {
  key = `key-${++keys}`;
});

const payment = (sent: Sent = {}): Sent => ({
  path: "/invoices/7/payments",
  body: '{"amount":100}',
  ...sent,
  headers: { "idempotency-key": key, ...sent.headers },
});

describe.each(KINDS)("an event of $kind", ({ eventOf, caller }) => {
  test("runs once for its key; duplicates get the result, another body is refused", async () => {
    const before = bank.charges.length;
    const first = await handler(eventOf(payment()), CONTEXT);
    expect(first).toMatchObject({ statusCode: 201, isBase64Encoded: false });
    expect(first.headers["idempotency-status"]).toBe("executed");
    const again = await handler(eventOf(payment()), CONTEXT);
    expect(again).toMatchObject({ statusCode: 201, body: first.body });
    expect(again.headers["idempotent-replayed"]).toBe("true");
    const other = await handler(eventOf(payment({ body: '{"amount":101}' })), CONTEXT);
    expect(other.statusCode).toBe(422);
    expect(JSON.parse(other.body)).toMatchObject({ code: "key-reused", retry: "new-key" });
    expect(bank.charges.slice(before)).toEqual([{ account: caller, invoice: "7", amount: 100 }]);
  });

  test("HTTP-4: of nobody gets 401, and nothing runs", async () => {
    const before = bank.charges.length;
    const answer = await handler(eventOf(payment({ caller: null })), CONTEXT);
    expect(answer.statusCode).toBe(401);
    expect(JSON.parse(answer.body)).toMatchObject({ code: "scope-missing" });
    expect(bank.charges).toHaveLength(before);
  });

  test("HTTP-1: with two keys is refused", async () => {
    const event = eventOf(payment()) as ReturnType<typeof restApiEvent>;
    // Format 2.0 joins repeated fields with a comma.
    if (event.multiValueHeaders) event.multiValueHeaders["idempotency-key"] = ["one", "two"];
    else Object.assign(event.headers, { "idempotency-key": "one,two" });
    const answer = await handler(event, CONTEXT);
    expect(answer.statusCode).toBe(400);
    expect(JSON.parse(answer.body)).toMatchObject({ code: "key-invalid" });
  });

  test("carries path, query, headers, cookies and body", async () => {
    const request = events.requestOf(
      eventOf({
        path: "/files/a%2Fb",
        query: "a=1&a=x%26y&z=%C3%A4",
        headers: { "x-trace": "1" },
        cookies: ["one=1", "two=2"],
        body: "gr\u00fc\u00dfe",
      }),
    );
    const { pathname, search } = new URL(request.url);
    expect(request.method).toBe("POST");
    expect(pathname + search).toBe("/files/a%2Fb?a=1&a=x%26y&z=%C3%A4");
    expect(request.headers.get("x-trace")).toBe("1");
    expect(request.headers.get("cookie")).toBe("one=1; two=2");
    expect(await request.text()).toBe("gr\u00fc\u00dfe");
  });

  test("HTTP-5, HTTP-14: with a binary body is compared, answered and replayed byte for byte", async () => {
    const bytes = Uint8Array.from({ length: 256 }, (_, index) => index);
    const idempotency = new Idempotency({ store: memoryStore() });
    let runs = 0;
    const echo = events.lambdaHandler(
      idempotent(idempotency, { scope: events.callerOf }, async (request) => {
        runs += 1;
        return new Response(await request.arrayBuffer(), {
          headers: { "content-type": "application/octet-stream" },
        });
      }),
    );
    const headers = { "content-type": "application/octet-stream", "idempotency-key": key };
    const first = await echo(eventOf({ headers, body: bytes }), CONTEXT);
    const again = await echo(eventOf({ headers, body: bytes }), CONTEXT);
    for (const { body, isBase64Encoded } of [first, again]) {
      expect(isBase64Encoded).toBe(true);
      expect(new Uint8Array(Buffer.from(body, "base64"))).toEqual(bytes);
    }
    const changed = await echo(eventOf({ headers, body: bytes.with(255, 0) }), CONTEXT);
    expect(changed.statusCode).toBe(422);
    expect(runs).toBe(1);
    await idempotency.close();
  });
});

test("HTTP-5: format 1.0 loses the order of parameters, which does not make a retry another request", async () => {
  const first = restApiEvent({ query: "b=2&a=1&b=1" });
  const retry = restApiEvent({ query: "a=1&b=2&b=1" });
  const other = restApiEvent({ query: "a=1&b=1&b=2" });
  expect(events.requestOf(retry).url).toBe(events.requestOf(first).url);
  expect(events.requestOf(other).url).not.toBe(events.requestOf(first).url);
});

test("a path that an HTTP API has decoded cannot become a query", () => {
  const { url } = events.requestOf(httpApiEvent({ path: "/me?admin=true#x", query: "a=1" }));
  expect(new URL(url).pathname).toBe("/me%3Fadmin=true%23x");
  expect(new URL(url).search).toBe("?a=1");
});

test("an event without a body, and one of a GET request, become requests without one", () => {
  const event = functionUrlEvent();
  event.requestContext.http.method = "GET";
  expect(events.requestOf(event).body).toBeNull();
  expect(events.requestOf(restApiEvent()).body).toBeNull();
});

test("an event that is not of HTTP is refused by name", () => {
  expect(() => events.requestOf({ Records: [] })).toThrow("Not an HTTP event");
  const balanced = { ...restApiEvent(), requestContext: { elb: { targetGroupArn: "arn" } } };
  expect(() => events.requestOf(balanced)).toThrow("Not an HTTP event");
});

describe("a response", () => {
  const cookies = ["a=1; Path=/", "b=2; Expires=Thu, 01 Jan 2026 00:00:00 GMT"];
  const response = () => {
    const headers = new Headers({ "content-type": "text/plain" });
    for (const cookie of cookies) headers.append("set-cookie", cookie);
    return new Response("\ufeffgr\u00fc\u00dfe", { status: 201, headers });
  };

  test("becomes a result of format 2.0, with its cookies apart", async () => {
    expect(await events.resultOf(response(), functionUrlEvent())).toEqual({
      statusCode: 201,
      headers: { "content-type": "text/plain" },
      cookies,
      body: "\ufeffgr\u00fc\u00dfe",
      isBase64Encoded: false,
    });
  });

  test("becomes a result of format 1.0, with its cookies in a list", async () => {
    expect(await events.resultOf(response(), restApiEvent())).toEqual({
      statusCode: 201,
      headers: { "content-type": "text/plain" },
      multiValueHeaders: { "set-cookie": cookies },
      body: "\ufeffgr\u00fc\u00dfe",
      isBase64Encoded: false,
    });
  });

  test("without a body becomes an empty text", async () => {
    const result = await events.resultOf(new Response(null, { status: 204 }), functionUrlEvent());
    expect(result).toMatchObject({ statusCode: 204, body: "", isBase64Encoded: false });
  });
});

test.each([
  ["an IAM user of a REST API", { identity: { caller: "AIDA1" } }, "iam:AIDA1"],
  ["a role's session", { authorizer: { iam: { callerId: "AROA1:web" } } }, "iam:AROA1:web"],
  [
    "somebody of a Cognito identity pool, whose role and session name all share",
    {
      authorizer: {
        iam: { callerId: "AROA1:Cognito", cognitoIdentity: { identityId: "eu:1" } },
      },
    },
    "cognito:eu:1",
  ],
  ["a Lambda authorizer's principal", { authorizer: { principalId: "u1" } }, "principal:u1"],
  [
    "a Lambda authorizer's principal behind an HTTP API",
    { authorizer: { lambda: { principalId: "u1" } } },
    "principal:u1",
  ],
  [
    "nobody, where an authorizer named none",
    { authorizer: { lambda: { plan: "free" } } },
    undefined,
  ],
  ["nobody, where there is no authorizer", { authorizer: null, identity: null }, undefined],
])("HTTP-4: the caller is %s", (_, context, caller) => {
  const event = functionUrlEvent({ caller: null });
  const requestContext = { ...event.requestContext, ...context };
  expect(events.callerOf(events.requestOf({ ...event, requestContext }))).toBe(caller);
});

test("SM-21: when the function returns, its record is complete: nothing is left for a frozen process", async () => {
  await handler(functionUrlEvent(payment()), CONTEXT);
  const { Items = [] } = await DynamoDBDocument.from(client).scan({
    TableName: TABLE,
    FilterExpression: "#key = :key",
    ExpressionAttributeNames: { "#key": "key" },
    ExpressionAttributeValues: { ":key": key },
    ConsistentRead: true,
  });
  expect(Items).toMatchObject([{ scope: "iam:alice", state: "completed", attempt: 1 }]);
});

test("an invocation with too little time left charges nothing, and its key runs again", async () => {
  const before = bank.charges.length;
  const late = await handler(functionUrlEvent(payment()), {
    getRemainingTimeInMillis: () => 6_000,
  });
  expect(late.statusCode).toBe(503);
  expect(late.headers["idempotency-status"]).toBe("released");
  expect(bank.charges).toHaveLength(before);
  expect((await handler(functionUrlEvent(payment()), CONTEXT)).statusCode).toBe(201);
});

test("SM-24: a bank that takes longer than is left is given up while the outcome can still be kept", async () => {
  const before = bank.charges.length;
  bank.hold();
  const context = { getRemainingTimeInMillis: () => 6_200 };
  const slow = handler(functionUrlEvent(payment()), context);
  await expect(slow).rejects.toMatchObject({ name: "TimeoutError" });
  bank.release();
  const retry = await handler(functionUrlEvent(payment()), CONTEXT);
  expect(JSON.parse(retry.body)).toMatchObject({ code: "outcome-unknown", retry: "never" });
  expect(bank.charges.length).toBeLessThanOrEqual(before + 1);
});
