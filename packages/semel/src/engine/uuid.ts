// Ids that others are given are UUIDs of version 8 (RFC 9562 §5.8), which services that want a UUID
// take as well.

/** The digits with version and variant in their places. */
export function uuidDigits(digits: string): string {
  const variant = ((Number.parseInt(digits[16]!, 16) & 0x3) | 0x8).toString(16);
  return `${digits.slice(0, 12)}8${digits.slice(13, 16)}${variant}${digits.slice(17, 32)}`;
}

/** 32 hexadecimal digits as a UUID is written. */
export function uuidOf(digits: string): string {
  const parts = [
    digits.slice(0, 8),
    digits.slice(8, 12),
    digits.slice(12, 16),
    digits.slice(16, 20),
    digits.slice(20, 32),
  ];
  return parts.join("-");
}
