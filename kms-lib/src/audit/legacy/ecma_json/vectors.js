// Prints random JSON texts with the output of Node.js for them, one JSON array per line:
// the text, JSON.stringify(JSON.parse(text)), the same spread after two members, and with sorted names.
// Usage: node vectors.js COUNT
'use strict';

const below = (n) => Math.floor(Math.random() * n);
const pick = (items) => items[below(items.length)];

const characters = [
  () => String.fromCharCode(0x20 + below(0x5f)),
  () => pick(['a', 'A', 'b', 'B', 'z', 'Z', '_', '-', '0', '1', '9', ' ']),
  () => String.fromCharCode(below(0x20)),
  () => String.fromCharCode(0xa0 + below(0x160)),
  () => String.fromCharCode(0x370 + below(0x80)),
  () => String.fromCharCode(0xac00 + below(0x2ba4)),
  () => pick(['\u{1f600}', '\u2028', '\u007f', '\ufeff', '\u0301', '\u00e9', 'e\u0301']),
];
const word = () => Array.from({ length: below(6) }, () => pick(characters)()).join('');
const names = [
  word, word, word,
  () => pick(['keyId', 'version', '__proto__', 'toString', 'a', 'A', 'ab', 'Ab', 'aB', '_a', 'a-b', 'a_b']),
  () => pick(['0', '1', '2', '10', '01', '-1', '1.5', '4294967294', '4294967295', '4294967296', '99999999999']),
];

// As JSON.stringify would, or with escapes that it would not use.
const quote = (text) => {
  if (below(3) > 0) return JSON.stringify(text);
  const unit = (c) => '\\u' + c.charCodeAt(0).toString(16).padStart(4, '0').replace('a', () => pick(['a', 'A']));
  return '"' + text.split('').map(unit).join('') + '"';
};
const lone = () => '"' + pick(['', 'x']) + pick(['\\ud83d', '\\ude00', '\\ude00\\ud83d', '\\uD800\\ud83d\\ude00']) + '"';
const numbers = [
  () => String(below(1000)), () => pick(['0', '-0', '1e21', '1E-7', '123456789012345678901234567890', '1e400', '-1e400']),
  () => pick(['5e-324', '1e-400', '0.1e1', '9007199254740993', '0.000001', '1e20', '100000000000000000000000.0', '-0.0']),
  () => { const view = new DataView(new ArrayBuffer(8)); view.setUint32(0, below(2 ** 32)); view.setUint32(4, below(2 ** 32));
    const n = view.getFloat64(0); return Number.isFinite(n) ? String(n) : '1.5'; },
  () => (Math.random() * 10 ** below(25)).toFixed(below(20)),
];
const space = () => pick(['', '', '', ' ', '\n\t', '\r ']);
const value = (depth) => {
  const kind = below(depth > 0 ? 8 : 5);
  if (kind === 0) return pick(['null', 'true', 'false']);
  if (kind <= 2) return pick(numbers)();
  if (kind === 3) return quote(word());
  if (kind === 4) return lone();
  const items = Array.from({ length: below(6) }, () =>
    (kind === 5 ? '' : quote(pick(names)()) + space() + ':') + space() + value(depth - 1) + space());
  return kind === 5 ? '[' + items.join(',') + ']' : '{' + space() + items.join(',') + '}';
};

const sorted = (parsed) => {
  if (Array.isArray(parsed)) return parsed.map(sorted);
  if (parsed === null || typeof parsed !== 'object') return parsed;
  const members = Object.entries(parsed).sort(([left], [right]) => left.localeCompare(right, 'en-US'));
  return Object.fromEntries(members.map(([name, member]) => [name, sorted(member)]));
};

for (let n = Number(process.argv[2]); n > 0; n -= 1) {
  const text = space() + value(4) + space();
  const parsed = JSON.parse(text);
  const spread = JSON.stringify({ keyId: 'k', version: 1, ...parsed });
  console.log(JSON.stringify([text, JSON.stringify(parsed), spread, JSON.stringify(sorted(parsed))]));
}
