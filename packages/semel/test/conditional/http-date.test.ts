// HTTP-17: HTTP dates in the three formats of RFC 9110 §5.6.7.

import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { parseHttpDate } from "../../src/conditional/http-date.ts";

const NOW = Date.UTC(2026, 10, 22);
const EXAMPLE = Date.UTC(1994, 10, 6, 8, 49, 37);
const wholeSeconds = (min: string, max: string) =>
  fc
    .integer({ min: Date.parse(min) / 1_000, max: Date.parse(max) / 1_000 })
    .map((seconds) => new Date(seconds * 1_000));

describe("HTTP dates (HTTP-17)", () => {
  test.each([
    "Sun, 06 Nov 1994 08:49:37 GMT",
    "Sunday, 06-Nov-94 08:49:37 GMT",
    "Sun Nov  6 08:49:37 1994",
  ])("the standard's example %s is read", (text) => {
    expect(parseHttpDate(text, NOW)).toBe(EXAMPLE);
  });

  test("any second is read in the format that is sent today, and in that of asctime()", () => {
    fc.assert(
      fc.property(wholeSeconds("0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"), (date) => {
        const text = date.toUTCString();
        expect(parseHttpDate(text, NOW)).toBe(date.getTime());
        const [, day, month, year, time] = /(\d\d) (\w+) (\d+) ([\d:]+)/.exec(text)!;
        const padded = day!.replace(/^0/, " ");
        expect(parseHttpDate(`Mon ${month} ${padded} ${time} ${year}`, NOW)).toBe(date.getTime());
      }),
    );
  });

  test("two digits of a year mean the one from 50 years ahead to 50 years ago", () => {
    fc.assert(
      fc.property(wholeSeconds("1976-11-23T00:00:00Z", "2076-11-21T00:00:00Z"), (date) => {
        const [, day, month, year, time] = /(\d\d) (\w+) \d\d(\d\d) ([\d:]+)/.exec(
          date.toUTCString(),
        )!;
        const text = `Wednesday, ${day}-${month}-${year} ${time} GMT`;
        expect(parseHttpDate(text, NOW)).toBe(date.getTime());
      }),
    );
  });

  test.each([
    "",
    "0",
    "1994-11-06T08:49:37Z",
    "Sun, 06 Nov 1994 08:49:37",
    "Sun, 06 Nov 1994 08:49:37 UTC",
    "Sun, 06 Nov 1994 08:49:37 +0000",
    "Sun, 6 Nov 1994 08:49:37 GMT",
    "sun, 06 nov 1994 08:49:37 gmt",
    "Sun, 31 Apr 1994 08:49:37 GMT",
    "Tue, 29 Feb 2023 08:49:37 GMT",
    "Sun, 00 Nov 1994 08:49:37 GMT",
    "Sun, 06 Nov 1994 24:00:00 GMT",
    "Sun, 06 Nov 1994 08:60:00 GMT",
    "Sun, 06 Nov 1994 08:49:61 GMT",
    "Sun, 06 Nov 1994 08:49:37 GMT, Mon, 07 Nov 1994 08:49:37 GMT",
    "Sun Nov 6 08:49:37 1994",
  ])("%j is none", (text) => {
    expect(parseHttpDate(text, NOW)).toBeUndefined();
  });

  test("a leap second is a second, and a leap day a day", () => {
    expect(parseHttpDate("Sat, 31 Dec 2016 23:59:60 GMT", NOW)).toBe(Date.UTC(2017, 0, 1));
    expect(parseHttpDate("Thu, 29 Feb 2024 00:00:00 GMT", NOW)).toBe(Date.UTC(2024, 1, 29));
  });
});
