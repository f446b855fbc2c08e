// What a configuration says, in the terms of the gateway's options and of its flags. What it does not
// say is absent.

import { InvalidArgumentError } from "commander";
import type { HttpOptions, StoredHeaders } from "semel/http";
import { usableToken } from "../../admin/flags.ts";
import { Failure } from "../../failure.ts";
import { bytes, duration, listenAddress, method, origin, patience, timeout } from "../../flags.ts";
import type { GatewayFlags } from "../../gateway.ts";
import type { RouteOptions } from "../options.ts";
import { type PathPattern, parsePath } from "../path.ts";
import { type ProbeOptions, parsePointer } from "../probe.ts";
import { parseScope, serviceUrl } from "../scope.ts";
import { parseTemplate, type Template } from "../template.ts";
import { assertValid, named } from "./check.ts";
import { type ConfigDocument, type Mistake, readDocument, type ValuePath } from "./document.ts";

/** A configuration file, read. */
export interface ConfigFile {
  document: ConfigDocument;
  /** What there are flags for, by their names. */
  flags: Partial<GatewayFlags>;
  /** What there are no flags for. */
  defaults: Partial<RouteOptions>;
  routes: readonly FileRoute[];
}

export interface FileRoute {
  paths: readonly PathPattern[];
  ignoresKeys: boolean;
  options: Partial<RouteOptions>;
}

/** @throws {Failure} with all that is wrong, and where */
export function readConfig(file: string): ConfigFile {
  const document = readDocument(file);
  assertValid(document);
  const reader = new Reader(document);
  const config = {
    document,
    flags: fileFlags(reader),
    defaults: detailsOf(reader, ["defaults"]),
    routes: reader.list(["routes"]).map((path) => routeOf(reader, path)),
  };
  if (reader.mistakes.length > 0) throw document.failure(reader.mistakes);
  return config;
}

/** Reads values out of a document that the schema has found valid. */
class Reader {
  readonly mistakes: Mistake[] = [];
  readonly #document: ConfigDocument;

  constructor(document: ConfigDocument) {
    this.#document = document;
  }

  value(path: ValuePath): unknown {
    let value = this.#document.content;
    for (const part of path) {
      value = (value as Record<string | number, unknown> | undefined)?.[part];
    }
    return value;
  }

  /** The ways to the items of a list. */
  list(path: ValuePath): ValuePath[] {
    const items = this.value(path);
    return Array.isArray(items) ? items.map((_, at) => [...path, at]) : [];
  }

  /** What is written, as a flag's value would be read. */
  read<T>(path: ValuePath, parse: (written: string) => T): T | undefined {
    const value = this.value(path);
    if (value === undefined) return undefined;
    try {
      return parse(String(value));
    } catch (error) {
      if (!(error instanceof InvalidArgumentError || error instanceof Failure)) throw error;
      this.wrong(path, error.message);
      return undefined;
    }
  }

  /** As `read`, for each item of a list. */
  readEach(path: ValuePath, parse: (written: string) => string): string[] | undefined {
    if (this.value(path) === undefined) return undefined;
    return this.list(path).flatMap((item) => this.read(item, parse) ?? []);
  }

  /** One text, or a list of them. */
  texts(path: ValuePath): string[] | undefined {
    const value = this.value(path);
    return value === undefined ? undefined : ([value].flat() as string[]);
  }

  wrong(path: ValuePath, message: string): void {
    this.mistakes.push({ path, message: `${named(path)}: ${message}` });
  }
}

function fileFlags(reader: Reader): Partial<GatewayFlags> {
  const plain = <T>(...path: string[]) => reader.value(path) as T | undefined;
  return present({
    upstream: reader.read(["upstream"], origin),
    listen: reader.read(["listen"], listenAddress),
    store: plain<string>("store"),
    table: plain<string>("table"),
    prefix: plain<string>("prefix"),
    mode: plain<GatewayFlags["mode"]>("mode"),
    trustForwarded: plain<boolean>("trustForwarded"),
    drain: reader.read(["drain"], patience),
    log: plain<GatewayFlags["log"]>("log"),
    ...adminFlags(reader),
    jwks: reader.read(["jwt", "jwks"], serviceUrl),
    jwtIssuer: reader.texts(["jwt", "issuer"]),
    jwtAudience: reader.texts(["jwt", "audience"]),
    jwtClockTolerance: reader.read(["jwt", "clockTolerance"], duration),
    authPrincipal: plain<string>("authRequest", "principal"),
    authTimeout: reader.read(["authRequest", "timeout"], timeout),
    scope: reader.read(["scope"], parseScope),
    methods: reader.readEach(["defaults", "methods"], method),
    required: plain<boolean>("defaults", "required"),
    retention: reader.read(["defaults", "retention"], duration),
    lease: reader.read(["defaults", "lease"], duration),
    wait: reader.read(["defaults", "wait"], duration),
    onCrash: plain<GatewayFlags["onCrash"]>("defaults", "onCrash"),
    onError: plain<GatewayFlags["onError"]>("defaults", "onError"),
    maxBody: reader.read(["defaults", "maxBody"], bytes),
    maxResult: reader.read(["defaults", "maxResult"], bytes),
    upstreamTimeout: reader.read(["defaults", "upstreamTimeout"], timeout),
  });
}

function adminFlags(reader: Reader): Partial<GatewayFlags> {
  const at = (name: string) => ["admin", name];
  if (reader.value(at("token")) !== undefined && reader.value(at("tokenFile")) !== undefined) {
    reader.wrong(at("tokenFile"), "there is `token` already; say one of them");
  }
  return present({
    admin: reader.read(at("listen"), listenAddress),
    adminToken: reader.read(at("token"), usableToken),
    adminTokenFile: reader.value(at("tokenFile")) as string | undefined,
  });
}

/** What routes and `defaults` have beside what there are flags for. */
function detailsOf(reader: Reader, path: ValuePath): Partial<RouteOptions> {
  const semantics = reader.value([...path, "semantics"]);
  return present({
    semantics: semantics === "stripe" ? semantics : undefined,
    fingerprint: reader.value([...path, "fingerprint"]) as
      | HttpOptions<never>["fingerprint"]
      | undefined,
    storedHeaders: storedHeaders(reader.value([...path, "storedHeaders"])),
  }) as Partial<RouteOptions>;
}

function storedHeaders(written: unknown): StoredHeaders | undefined {
  return written as StoredHeaders | undefined;
}

function routeOf(reader: Reader, path: ValuePath): FileRoute {
  const at = (name: string) => [...path, name];
  const plain = <T>(name: string) => reader.value(at(name)) as T | undefined;
  const paths = pathsOf(reader, at("path"));
  const names = new Set(
    paths[0]?.names.filter((name) => paths.every((one) => one.names.includes(name))),
  );
  const options = present({
    methods: reader.readEach(at("methods"), method),
    scope: reader.read(at("scope"), parseScope),
    required: plain<boolean>("required"),
    retentionMs: reader.read(at("retention"), duration),
    leaseMs: reader.read(at("lease"), duration),
    waitMs: reader.read(at("wait"), duration),
    onCrash: plain<RouteOptions["onCrash"]>("onCrash"),
    onError: plain<RouteOptions["onError"]>("onError"),
    bodyBytesMax: reader.read(at("maxBody"), bytes),
    resultBytesMax: reader.read(at("maxResult"), bytes),
    upstreamTimeoutMs: reader.read(at("upstreamTimeout"), timeout),
    probe: probeOf(reader, at("probe"), names),
  });
  const isProbed = options.onCrash === "probe";
  if (isProbed && plain("probe") === undefined) {
    reader.wrong(at("onCrash"), "say in `probe` how the service is asked");
  }
  if (!isProbed && plain("probe") !== undefined) {
    reader.wrong(at("probe"), "it has no use without `onCrash: probe`");
  }
  return {
    paths,
    ignoresKeys: plain<boolean>("ignoreKeys") ?? false,
    options: { ...options, ...detailsOf(reader, path) } as Partial<RouteOptions>,
  };
}

function pathsOf(reader: Reader, path: ValuePath): PathPattern[] {
  return (reader.texts(path) ?? []).flatMap((written, at) => {
    const pattern = parsePath(written);
    if (typeof pattern !== "string") return [pattern];
    reader.wrong(Array.isArray(reader.value(path)) ? [...path, at] : path, pattern);
    return [];
  });
}

function probeOf(
  reader: Reader,
  path: ValuePath,
  names: ReadonlySet<string>,
): ProbeOptions | undefined {
  if (reader.value(path) === undefined) return undefined;
  const at = (name: string) => [...path, name];
  const templateAt = (where: ValuePath): Template => {
    const template = parseTemplate(String(reader.value(where)), names);
    if (typeof template !== "string") return template;
    reader.wrong(where, template);
    return [];
  };
  const headers = Object.keys((reader.value(at("headers")) as object | undefined) ?? {});
  const applied = (reader.value(at("applied")) as number[] | undefined) ?? [200];
  const notApplied = (reader.value(at("notApplied")) as number[] | undefined) ?? [404];
  const both = applied.find((status) => notApplied.includes(status));
  if (both !== undefined) reader.wrong(path, `${both} cannot say both that it was applied and not`);
  const find = reader.value(at("find")) as string | undefined;
  return {
    target: templateAt(at("get")),
    headers: headers.map((name) => [name, templateAt([...path, "headers", name])] as const),
    timeoutMs: reader.read(at("timeout"), timeout) ?? PROBE_TIMEOUT_MS,
    ...{ applied, notApplied },
    find: find === undefined ? undefined : parsePointer(find),
    status: reader.value(at("status")) as number | undefined,
  };
}

const PROBE_TIMEOUT_MS = 5_000;

/** Without what is not there, so that it does not stand in the way of what is elsewhere. */
function present<T extends object>(values: T): { [Name in keyof T]?: Exclude<T[Name], undefined> } {
  return Object.fromEntries(
    Object.entries(values).filter(([, value]) => value !== undefined),
  ) as never;
}
