// HTTP events of AWS Lambda as `Request` and `Response`: function URLs and API Gateway HTTP APIs (payload
// format 2.0), REST APIs and HTTP APIs with format 1.0. Response streaming is not covered.

import { isUtf8 } from "node:buffer";

/**
 * @typedef {import("./event-types.d.ts").HttpEvent} HttpEvent
 * @typedef {import("./event-types.d.ts").HttpResult} HttpResult
 * @typedef {import("./event-types.d.ts").Context} Context
 */

/** The event that a request was made of, for {@link callerOf}. */
const events = /** @type {WeakMap<Request, HttpEvent>} */ (new WeakMap());

/**
 * Serves a fetch handler on Lambda. The result is handed over only when the whole body is there, and
 * with it the record: nothing is left to do when Lambda freezes the process.
 *
 * @param {(request: Request, event: HttpEvent, context: Context) => Promise<Response>} handler
 * @returns {(event: HttpEvent, context: Context) => Promise<HttpResult>}
 */
export function lambdaHandler(handler) {
  return async (event, context) => {
    const request = requestOf(event);
    return resultOf(await handler(request, event, context), event);
  };
}

/**
 * @param {HttpEvent} event
 * @throws {TypeError} for an event of another kind
 */
export function requestOf(event) {
  const { domainName, http } = event.requestContext ?? {};
  const method = http?.method ?? event.httpMethod;
  if (method === undefined || domainName === undefined) {
    throw new TypeError("Not an HTTP event of a function URL or of API Gateway");
  }
  const path = event.rawPath ?? event.path ?? "/";
  const query = event.rawQueryString ?? queryOf(event);
  // HTTP APIs hand over a decoded path, in which these two would begin something else.
  const escaped = path.replaceAll("?", "%3F").replaceAll("#", "%23");
  const url = `https://${domainName}${escaped}${query && `?${query}`}`;
  const body = event.body
    ? Buffer.from(event.body, event.isBase64Encoded ? "base64" : "utf8")
    : null;
  const request = new Request(url, { method, headers: headersOf(event), body });
  events.set(request, event);
  return request;
}

/**
 * Format 1.0 has no raw query: its parameters are decoded and in no lasting order, so they are sorted.
 *
 * @param {HttpEvent} event
 */
function queryOf(event) {
  const values = Object.entries(event.multiValueQueryStringParameters ?? {});
  const pairs = values
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .flatMap(([name, list]) =>
      list.map((value) => `${encodeURIComponent(name)}=${encodeURIComponent(value)}`),
    );
  return pairs.join("&");
}

/** @param {HttpEvent} event */
function headersOf(event) {
  const headers = new Headers();
  const fields = event.multiValueHeaders ?? event.headers ?? {};
  for (const [name, value] of Object.entries(fields)) {
    for (const line of [value ?? []].flat()) headers.append(name, line);
  }
  if (event.cookies?.length) headers.set("cookie", event.cookies.join("; "));
  return headers;
}

/**
 * @param {Response} response
 * @param {HttpEvent} event
 * @returns {Promise<HttpResult>}
 */
export async function resultOf(response, event) {
  const bytes = Buffer.from(await response.arrayBuffer());
  // As text where it can be: API Gateway decodes base64 only for media types that it was told of.
  const isBase64Encoded = !isUtf8(bytes);
  const cookies = response.headers.getSetCookie();
  const headers = Object.fromEntries(response.headers);
  delete headers["set-cookie"];
  return {
    statusCode: response.status,
    headers,
    ...(event.version === "2.0" ? { cookies } : { multiValueHeaders: { "set-cookie": cookies } }),
    body: bytes.toString(isBase64Encoded ? "base64" : "utf8"),
    isBase64Encoded,
  };
}

/**
 * Whose key a request carries, as AWS authenticated it: an IAM identity, the subject of a JWT or of
 * Cognito, or the principal that a Lambda authorizer named. `undefined` when nobody did.
 *
 * @param {Request} request
 */
export function callerOf(request) {
  const { authorizer, identity } = events.get(request)?.requestContext ?? {};
  const iam = authorizer?.iam;
  // Everybody of a Cognito identity pool has one role and one session name.
  const pooled = iam?.cognitoIdentity?.identityId ?? identity?.cognitoIdentityId;
  if (pooled) return `cognito:${pooled}`;
  const caller = iam?.callerId ?? identity?.caller;
  if (caller) return `iam:${caller}`;
  const claims = authorizer?.jwt?.claims ?? authorizer?.claims;
  if (claims?.sub) return `jwt:${claims.iss} ${claims.sub}`;
  const principal = authorizer?.principalId ?? authorizer?.lambda?.principalId;
  return principal ? `principal:${principal}` : undefined;
}
