// Events as AWS documents them: of a function URL, of an HTTP API (payload format 2.0), and of a REST API
// (format 1.0).
// https://docs.aws.amazon.com/lambda/latest/dg/urls-invocation.html
// https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-develop-integrations-lambda.html
// https://docs.aws.amazon.com/apigateway/latest/developerguide/set-up-lambda-proxy-integrations.html

export interface Sent {
  path?: string;
  /** As sent; format 1.0 gets it taken apart. */
  query?: string;
  headers?: Record<string, string>;
  cookies?: string[];
  body?: string | Uint8Array;
  /** `null`: a route that anybody may call. */
  caller?: string | null;
}

const DEFAULTS = { path: "/my/path", query: "", headers: {}, cookies: [], caller: "alice" };

function bodyOf({ body }: Sent): { body?: string; isBase64Encoded: boolean } {
  if (body === undefined) return { isBase64Encoded: false };
  if (typeof body === "string") return { body, isBase64Encoded: false };
  return { body: Buffer.from(body).toString("base64"), isBase64Encoded: true };
}

function format2(sent: Sent, domainName: string, authorizer: object) {
  const { path, query, headers, cookies, caller } = { ...DEFAULTS, ...sent };
  return {
    version: "2.0",
    routeKey: "$default",
    rawPath: path,
    rawQueryString: query,
    ...(cookies.length > 0 && { cookies }),
    headers: { "content-type": "application/json", "x-forwarded-proto": "https", ...headers },
    ...(query !== "" && { queryStringParameters: Object.fromEntries(new URLSearchParams(query)) }),
    requestContext: {
      accountId: "123456789012",
      apiId: "abcdefghij",
      ...(caller !== null && { authorizer }),
      domainName,
      domainPrefix: "abcdefghij",
      http: {
        method: "POST",
        path,
        protocol: "HTTP/1.1",
        sourceIp: "192.0.2.1",
        userAgent: "agent",
      },
      requestId: "id",
      routeKey: "$default",
      stage: "$default",
      time: "12/Mar/2020:19:03:58 +0000",
      timeEpoch: 1583348638390,
    },
    ...bodyOf(sent),
  };
}

export function functionUrlEvent(sent: Sent = {}) {
  const callerId = sent.caller ?? "alice";
  return format2(sent, "abcdefghij.lambda-url.us-west-2.on.aws", {
    iam: {
      accessKey: "AKIA...",
      accountId: "111122223333",
      callerId,
      cognitoIdentity: null,
      principalOrgId: null,
      userArn: `arn:aws:iam::111122223333:user/${callerId}`,
      userId: callerId,
    },
  });
}

export function httpApiEvent(sent: Sent = {}) {
  return format2(sent, "abcdefghij.execute-api.us-east-1.amazonaws.com", {
    jwt: {
      claims: { iss: "https://issuer.example", sub: sent.caller ?? "alice", token_use: "access" },
      scopes: ["payments"],
    },
  });
}

export function restApiEvent(sent: Sent = {}) {
  const { path, query, headers, cookies, caller } = { ...DEFAULTS, ...sent };
  const fields: Record<string, string> = {
    "Content-Type": "application/json",
    "X-Forwarded-Proto": "https",
    ...headers,
    ...(cookies.length > 0 && { Cookie: cookies.join("; ") }),
  };
  const parameters: Record<string, string[]> = {};
  for (const [name, value] of new URLSearchParams(query)) {
    parameters[name] = [...(parameters[name] ?? []), value];
  }
  const hasQuery = query !== "";
  return {
    resource: "/{proxy+}",
    path,
    httpMethod: "POST",
    headers: fields,
    multiValueHeaders: Object.fromEntries(
      Object.entries(fields).map(([name, value]) => [name, [value]]),
    ) as Record<string, string[]>,
    queryStringParameters: hasQuery
      ? Object.fromEntries(Object.entries(parameters).map(([name, list]) => [name, list.at(-1)]))
      : null,
    multiValueQueryStringParameters: hasQuery ? parameters : null,
    pathParameters: { proxy: path.slice(1) },
    stageVariables: null,
    requestContext: {
      accountId: "123456789012",
      apiId: "abcdefghij",
      ...(caller !== null && {
        authorizer: { claims: { iss: "https://cognito-idp.example/pool", sub: caller } },
      }),
      domainName: "abcdefghij.execute-api.us-east-1.amazonaws.com",
      domainPrefix: "abcdefghij",
      httpMethod: "POST",
      identity: {
        accountId: null,
        caller: null,
        cognitoIdentityId: null,
        sourceIp: "192.0.2.1",
        user: null,
        userArn: null,
      },
      path: `/prod${path}`,
      protocol: "HTTP/1.1",
      requestId: "id",
      requestTime: "15/May/2020:06:01:09 +0000",
      requestTimeEpoch: 1589522469693,
      resourceId: "roq9wj",
      resourcePath: "/{proxy+}",
      stage: "prod",
    },
    ...bodyOf({ body: "", ...sent }),
  };
}
