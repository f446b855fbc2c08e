// What is needed of `@modelcontextprotocol/sdk` 1.x, by structure: the library does not import it.

/** The second argument of a tool's handler (`RequestHandlerExtra`). */
export interface ToolExtra {
  /** Aborts when the client cancels its request, or goes away. */
  signal: AbortSignal;
  /** The transport's session, where it has one. */
  sessionId?: string | undefined;
  /** `_meta` of the request. */
  _meta?: { [name: string]: unknown } | undefined;
  /** Present when the call came over HTTP. */
  requestInfo?: object | undefined;
}

/** What a tool's handler returns (`CallToolResult`). */
export interface ToolResult {
  content?: unknown;
  structuredContent?: unknown;
  isError?: boolean | undefined;
  _meta?: { [name: string]: unknown } | undefined;
}

/** A schema of text, as `z.string()` makes it. */
export interface TextSchema<Schema> {
  min(length: number): Schema;
  max(length: number): Schema;
  describe(text: string): Schema;
}
