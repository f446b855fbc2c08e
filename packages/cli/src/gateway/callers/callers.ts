// The ways of a configuration to tell callers apart, as the library's HTTP layer takes them.

import type { IncomingMessage, ServerResponse } from "node:http";
import type { HttpOptions } from "semel/http";
import { Failure } from "../../failure.ts";
import type { GatewayOptions } from "../options.ts";
import { namedCaller, type Scope } from "../scope.ts";
import { Upstream } from "../upstream.ts";
import { askedCaller } from "./auth-request.ts";
import type { FindCaller } from "./caller.ts";
import { KeySet } from "./key-set.ts";
import { tokenCaller } from "./token.ts";

/** Key sets by address: they outlive a configuration, which may change for other reasons. */
export type KeySets = Map<string, KeySet>;

/** How the callers of a scope are told apart. */
export interface ToldApart {
  scope: HttpOptions<IncomingMessage>["scope"];
  /** Finds out who sends a request, before `scope` is asked. @returns the answer to a refused one */
  find?: (request: IncomingMessage) => Promise<Refusal | undefined>;
}

export type Refusal = (response: ServerResponse) => void | Promise<void>;

export class Callers {
  readonly #options: GatewayOptions;
  readonly #keySets: KeySets;
  readonly #services: Upstream[] = [];

  constructor(options: GatewayOptions, keySets: KeySets) {
    this.#options = options;
    this.#keySets = keySets;
  }

  of(scope: Scope): ToldApart {
    switch (scope.kind) {
      case "shared":
        return { scope: "shared" };
      case "jwt":
        return found(this.#byToken(scope.claim));
      case "auth-request":
        return found(this.#byService(scope.url));
      default:
        return { scope: (request) => namedCaller(scope, request) };
    }
  }

  /** Closes idle connections to the services that say who callers are. */
  close(): void {
    for (const service of this.#services) service.close();
  }

  #byToken(claim: string): FindCaller {
    const { jwt } = this.#options;
    if (jwt === undefined) {
      throw new Failure(
        `the scope jwt:${claim} takes the address of a key set: --jwks, or \`jwt\``,
      );
    }
    const { href } = jwt.jwks;
    const keys = this.#keySets.get(href) ?? new KeySet(jwt.jwks);
    this.#keySets.set(href, keys);
    return tokenCaller(claim, jwt, keys);
  }

  #byService(url: URL): FindCaller {
    const service = new Upstream(url);
    this.#services.push(service);
    return askedCaller(service, url, this.#options.authRequest, this.#options.trustForwarded);
  }
}

function found(findCaller: FindCaller): ToldApart {
  const scopes = new WeakMap<IncomingMessage, string>();
  return {
    scope: (request) => scopes.get(request),
    find: async (request) => {
      const caller = await findCaller(request);
      if ("refuse" in caller) return caller.refuse;
      scopes.set(request, caller.scope);
      return undefined;
    },
  };
}
