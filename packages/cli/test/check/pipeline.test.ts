// Answers as bytes on one connection (RFC 9112 §6.3).

import { expect, test } from "vitest";
import { answersIn } from "../../src/check/pipeline.ts";

function read(...lines: string[]) {
  const answers = answersIn(Buffer.from(lines.join("\r\n"), "latin1"));
  return answers.map(({ status, body }) => [status, body.toString()]);
}

test("answers follow each other, whichever way their bodies are framed", () => {
  expect(
    read(
      ...["HTTP/1.1 100 Continue", "", "HTTP/1.1 201 Created", "Content-Length: 3", "", "one"],
    ).concat(
      read(
        ...[
          "HTTP/1.1 200 OK",
          "Transfer-Encoding: chunked",
          "",
          "2",
          "tw",
          "1;x=y",
          "o",
          "0",
          "",
          "",
        ],
      ),
    ),
  ).toEqual([
    [201, "one"],
    [200, "two"],
  ]);
  const chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n0\r\n\r\n";
  const empty = "HTTP/1.1 204 No Content\r\n\r\n";
  const untilClose = "HTTP/1.1 200 OK\r\n\r\nthree";
  expect(read(chunked + empty + untilClose)).toEqual([
    [200, "one"],
    [204, ""],
    [200, "three"],
  ]);
});

test("an answer that broke off is none", () => {
  expect(read("HTTP/1.1 200 OK", "Content-Length: 4", "", "one")).toEqual([]);
  expect(read("HTTP/1.1 200 OK", "Transfer-Encoding: chunked", "", "3", "on")).toEqual([]);
  expect(read("HTTP/1.1 200 OK", "Transfer-Encoding: chunked", "", "3", "one", "0")).toEqual([]);
  expect(read("HTTP/1.1 200 OK", "Content-Le")).toEqual([]);
  expect(read("nonsense", "", "")).toEqual([]);
});
