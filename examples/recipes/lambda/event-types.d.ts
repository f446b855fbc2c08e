// What the recipe reads of Lambda's events. `@types/aws-lambda` has all of it.

type Maybe<Value> = Value | null | undefined;
type Fields<Value> = Record<string, Value | undefined>;

export interface HttpEvent {
  /** `"2.0"`, `"1.0"`, or absent for REST APIs. */
  version?: string;
  rawPath?: string;
  rawQueryString?: string;
  cookies?: string[];
  path?: string;
  httpMethod?: string;
  headers?: Maybe<Fields<string>>;
  multiValueHeaders?: Maybe<Fields<string[]>>;
  multiValueQueryStringParameters?: Maybe<Record<string, string[]>>;
  body?: Maybe<string>;
  isBase64Encoded?: boolean;
  requestContext: {
    domainName?: string;
    http?: { method: string };
    authorizer?: Maybe<{
      iam?: Maybe<{ callerId?: string; cognitoIdentity?: Maybe<{ identityId?: string }> }>;
      jwt?: Maybe<{ claims: Fields<string> }>;
      lambda?: Maybe<Fields<unknown>>;
      claims?: Maybe<Fields<string>>;
      principalId?: string;
    }>;
    identity?: Maybe<{ caller?: string | null; cognitoIdentityId?: string | null }>;
  };
}

export interface HttpResult {
  statusCode: number;
  headers: Record<string, string>;
  cookies?: string[];
  multiValueHeaders?: Record<string, string[]>;
  body: string;
  isBase64Encoded: boolean;
}

export interface Context {
  getRemainingTimeInMillis(): number;
}
