// msgpack, as far as protocol.md, "Encoding", uses it: no extension types, text must be UTF-8.
//
// null, booleans, numbers, BigInts, strings (text), Buffers (binary), arrays, and Maps or
// plain objects. What is decoded has plain objects, or Maps where a key is not text, and
// BigInts where a Number would not be exact.

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

export function encode(value) {
  const parts = [];
  put(parts, value);
  return Buffer.concat(parts);
}

function put(parts, value) {
  if (value === null || value === undefined) parts.push(byte(0xc0));
  else if (value === false || value === true) parts.push(byte(value ? 0xc3 : 0xc2));
  else if (typeof value === "bigint" || Number.isSafeInteger(value)) parts.push(integer(BigInt(value)));
  else if (typeof value === "number") parts.push(number(0xcb, 8, (b) => b.writeDoubleBE(value, 1)));
  else if (typeof value === "string") putBytes(parts, Buffer.from(value), 0xd9);
  else if (value instanceof Uint8Array) putBytes(parts, value, 0xc4);
  else if (Array.isArray(value)) {
    parts.push(length(0xdc, value.length));
    for (const item of value) put(parts, item);
  } else {
    const entries = value instanceof Map ? [...value] : Object.entries(value);
    parts.push(length(0xde, entries.length));
    for (const [key, item] of entries) put(parts, key), put(parts, item);
  }
}

const byte = (code) => Buffer.from([code]);

function number(code, size, write) {
  const buffer = Buffer.alloc(1 + size, code);
  write(buffer);
  return buffer;
}

const integer = (value) => number(value < 0n ? 0xd3 : 0xcf, 8, (b) =>
  value < 0n ? b.writeBigInt64BE(value, 1) : b.writeBigUInt64BE(value, 1));

// 16 or 32 bits: a sender may use any format that holds the value.
const length = (code, count) => count < 1 << 16
  ? number(code, 2, (b) => b.writeUInt16BE(count, 1))
  : number(code + 1, 4, (b) => b.writeUInt32BE(count, 1));

function putBytes(parts, bytes, code) {
  parts.push(number(code + 2, 4, (b) => b.writeUInt32BE(bytes.length, 1)), bytes);
}

export function decode(buffer) {
  let at = 0;

  const take = (size) => {
    if (at + size > buffer.length) throw new Error("a message is cut short");
    at += size;
    return buffer.subarray(at - size, at);
  };
  const exact = (value) => (Number.isSafeInteger(Number(value)) ? Number(value) : value);
  const unsigned = (size) => (size === 8 ? exact(take(8).readBigUInt64BE()) : take(size).readUIntBE(0, size));
  const signed = (size) => (size === 8 ? exact(take(8).readBigInt64BE()) : take(size).readIntBE(0, size));
  const array = (count) => Array.from({ length: count }, () => value());

  const map = (count) => {
    const entries = new Map();
    for (let i = 0; i < count; i++) {
      const key = value();
      if (entries.has(key)) throw new Error("a map has the same key twice");
      entries.set(key, value());
    }
    const isText = [...entries.keys()].every((key) => typeof key === "string");
    return isText ? Object.fromEntries(entries) : entries;
  };

  const value = () => {
    const code = unsigned(1);
    if (code < 0x80) return code;
    if (code < 0x90) return map(code & 15);
    if (code < 0xa0) return array(code & 15);
    if (code < 0xc0) return utf8.decode(take(code & 31));
    if (code >= 0xe0) return code - 256;
    switch (code) {
      case 0xc0: return null;
      case 0xc2: case 0xc3: return code === 0xc3;
      case 0xc4: case 0xc5: case 0xc6: return Buffer.from(take(unsigned(1 << (code - 0xc4))));
      case 0xca: return take(4).readFloatBE();
      case 0xcb: return take(8).readDoubleBE();
      case 0xcc: case 0xcd: case 0xce: case 0xcf: return unsigned(1 << (code - 0xcc));
      case 0xd0: case 0xd1: case 0xd2: case 0xd3: return signed(1 << (code - 0xd0));
      case 0xd9: case 0xda: case 0xdb: return utf8.decode(take(unsigned(1 << (code - 0xd9))));
      case 0xdc: case 0xdd: return array(unsigned(code === 0xdc ? 2 : 4));
      case 0xde: case 0xdf: return map(unsigned(code === 0xde ? 2 : 4));
      default: throw new Error(`a message has the byte 0x${code.toString(16)}`);
    }
  };

  const message = value();
  if (at !== buffer.length) throw new Error("a message has bytes after its end");
  return message;
}
