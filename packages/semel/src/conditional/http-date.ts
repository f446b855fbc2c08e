// HTTP dates (RFC 9110 §5.6.7): recipients accept three formats, all of them in GMT.

const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const MONTH = `(${MONTHS.join("|")})`;
const TIME = "(\\d{2}):(\\d{2}):(\\d{2})";
const DAY = "(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)";
const LONG_DAY = "(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day";

/** `Sun, 06 Nov 1994 08:49:37 GMT`, the one that is sent today. */
const IMF_FIXDATE = new RegExp(`^${DAY}, (\\d{2}) ${MONTH} (\\d{4}) ${TIME} GMT$`);
/** `Sunday, 06-Nov-94 08:49:37 GMT`, of RFC 850. */
const RFC_850 = new RegExp(`^${LONG_DAY}, (\\d{2})-${MONTH}-(\\d{2}) ${TIME} GMT$`);
/** `Sun Nov  6 08:49:37 1994`, of C's `asctime()`. */
const ASCTIME = new RegExp(`^${DAY} ${MONTH} ([ \\d]\\d) ${TIME} (\\d{4})$`);

/**
 * Reads an HTTP date in any of its three formats. A wrong name of a day is overlooked.
 *
 * @param nowMs milliseconds since 1970, to which the two digits of a year are related
 * @returns milliseconds since 1970, or nothing where it is no HTTP date
 */
export function parseHttpDate(text: string, nowMs: number): number | undefined {
  const fixdate = IMF_FIXDATE.exec(text);
  if (fixdate) {
    const [, day, month, year, ...time] = fixdate;
    return timeOf(Number(year), month, day, time);
  }
  const rfc850 = RFC_850.exec(text);
  if (rfc850) {
    const [, day, month, year, ...time] = rfc850;
    return timeOfTwoDigits(Number(year), month, day, time, nowMs);
  }
  const asctime = ASCTIME.exec(text);
  if (asctime) {
    const [, month, day, hour, minute, second, year] = asctime;
    return timeOf(Number(year), month, day, [hour, minute, second]);
  }
  return undefined;
}

type Text = string | undefined;

function timeOf(year: number, month: Text, day: Text, time: readonly Text[]): number | undefined {
  const [hours, minutes, seconds] = time.map(Number) as [number, number, number];
  // 60 is a leap second.
  if (hours > 23 || minutes > 59 || seconds > 60) return undefined;
  const date = new Date(0);
  date.setUTCFullYear(year, MONTHS.indexOf(month!), Number(day));
  // A day that its month does not have becomes one of the next.
  if (date.getUTCDate() !== Number(day)) return undefined;
  return date.setUTCHours(hours, minutes, seconds);
}

/** What seems more than 50 years ahead is the last year in the past with these digits. */
function timeOfTwoDigits(
  digits: number,
  month: Text,
  day: Text,
  time: readonly Text[],
  nowMs: number,
): number | undefined {
  const limit = new Date(nowMs);
  limit.setUTCFullYear(limit.getUTCFullYear() + 50);
  const century = Math.floor(limit.getUTCFullYear() / 100) * 100;
  const ms = timeOf(century + digits, month, day, time);
  if (ms !== undefined && ms <= limit.getTime()) return ms;
  return timeOf(century - 100 + digits, month, day, time);
}
