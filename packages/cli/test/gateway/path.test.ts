// Which paths a pattern of a route is for (GW-1): however a request spells its path, and the pattern itself.

import { expect, test } from "vitest";
import { comparablePath, matchPath, parsePath } from "../../src/gateway/path.ts";

/** The parts of a target that a pattern fits. */
function parts(pattern: string, target: string) {
  const parsed = parsePath(pattern);
  if (typeof parsed === "string") throw new Error(parsed);
  const found = matchPath(parsed, comparablePath(target));
  return found && { ...found };
}

const FITTING: [pattern: string, targets: string[], parts?: Record<string, string>][] = [
  ["/", ["/", "/?a", "//", "/.", "/x/.."]],
  ["/pay", ["/pay", "/pay/", "/PAY", "//pay//", "/%70ay", "/x/../pay/.", "/pay;v=1", "/pay/;v"]],
  ["/caf%C3%A9", ["/caf%C3%A9", "/caf%c3%a9/", "/CAF%C3%A9"]],
  ["/caf\u00e9", ["/caf%C3%A9"]],
  ["/a/../b", ["/b", "/a/../b"]],
  ["/a//b/./*", ["/a/b/", "/a/b/c"]],
  ["/a%2Fb", ["/a/b", "/a%2fb"]],
  ["/x%3Acancel", ["/x:cancel", "/x%3acancel"]],
  ["/x/*", ["/x/", "/x//", "/x/.", "/x/%2e", "/x/y/..", "/x/y", "/x/y/", "/x/;v"]],
  ["/*", ["/", "/x", "/x/"]],
  ["/hooks*", ["/hooks", "/hooks/", "/hooks-a", "/hooks/a"]],
  ["/.well*", ["/.well-known", "/a/../.well-known/x"]],
  ["/.*", ["/.well-known", "/.a/b"]],
  ["/orders/:id", ["/orders/7", "/orders/7/", "/orders/%37"], { id: "7" }],
  ["/orders/:id/*", ["/orders/7/", "/orders/7/lines/1"], { id: "7" }],
  ["/:a/../x", ["/x"]],
  ["/:a/:b", ["/caf%C3%A9/x"], { a: "caf\u00e9", b: "x" }],
];

test.each(FITTING)("%s", (pattern, targets, expected = {}) => {
  for (const target of targets) expect(parts(pattern, target), target).toEqual(expected);
});

const OTHERS: [pattern: string, targets: string[]][] = [
  ["/", ["/x"]],
  ["/pay", ["/pays", "/pay/1", "/"]],
  ["/x/*", ["/x", "/xy", "/x/..", "/y/x/"]],
  ["/.*", ["/", "/a"]],
  ["/orders/:id", ["/orders/", "/orders", "/orders/1/2"]],
];

test.each(OTHERS)("%s is for no other path", (pattern, targets) => {
  for (const target of targets) expect(parts(pattern, target), target).toBeUndefined();
});

const REFUSED: [pattern: string, says: RegExp][] = [
  ["/orders/:id:cancel", /colon/],
  ["/files/:name.json", /colon/],
  ["/x:cancel", /colon/],
  ["/orders/:", /colon/],
  ["/a:*", /colon/],
  ["/:id/:id", /two parts named :id/],
  ["pay", /Write a path/],
  ["/a*b", /Write a path/],
];

test.each(REFUSED)("%s is refused", (pattern, says) => {
  expect(parsePath(pattern)).toMatch(says);
});
