// A client of TeleWorker, written from protocol.md.

import { createHash, randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import tls from "node:tls";

import { decode, encode } from "./msgpack.mjs";

const VERSION = 1;
const WINDOW = 1 << 20; // bytes of output on their way or unread
const FIRST_WINDOW = 16 << 10; // after a cut: what a bad link may still get through
const PATIENCE = 30_000; // milliseconds without a server until we give up

/** What the server answers a request with, or refuses the connection with. */
export class ServerError extends Error {
  constructor({ code, message, details = {} }) {
    super(message);
    Object.assign(this, { code, details });
  }
}

/** The server breaks a rule of protocol.md: nothing that it says can be relied on. */
export class ProtocolError extends Error {}

/** The connection is gone; what was asked on it may be asked again. */
export class Lost extends Error {}

/** One connection: sends requests, and has what comes for each taken by its id. */
class Connection {
  #socket;
  #rest = Buffer.alloc(0);
  #takers = new Map();
  #next = 1;
  #error = null;
  #greeted;

  static async open({ host, port, ca, cert, key }) {
    const socket = tls.connect({
      host, port, ca, cert, key, minVersion: "TLSv1.3", ALPNProtocols: ["teleworker/1"],
    });
    const connection = new Connection(socket);
    await connection.#greeted.promise;
    return connection;
  }

  constructor(socket) {
    this.#socket = socket;
    this.#greeted = Promise.withResolvers?.() ?? resolvers();
    this.#greeted.promise.catch(() => {});
    socket.setNoDelay(true);
    socket.on("secureConnect", () => {
      if (socket.alpnProtocol !== "teleworker/1") this.#fail(new ProtocolError("the server is no TeleWorker"));
    });
    socket.on("data", (data) => this.#receive(data));
    socket.on("error", (error) => this.#fail(isRefusal(error) ? error : new Lost(error.message)));
    socket.on("close", () => this.#fail(new Lost("the server closed the connection")));
  }

  /** Send a request; *take* gets each message for it, and last an Error or the final one. */
  request(type, fields, take) {
    if (this.#error) throw this.#error;
    const id = this.#next++;
    this.#takers.set(id, take);
    this.send({ type, id, ...fields });
    return id;
  }

  /** Send a request that has one response, and return that. */
  ask(type, fields) {
    return new Promise((resolve, reject) => {
      this.request(type, fields, (message) => (message instanceof Error ? reject(message) : resolve(message)));
    });
  }

  send(message) {
    const body = encode(message);
    const size = Buffer.alloc(4);
    size.writeUInt32BE(body.length);
    this.#socket.write(Buffer.concat([size, body]));
  }

  close() {
    this.#fail(new Lost("closed"));
  }

  #receive(data) {
    this.#rest = Buffer.concat([this.#rest, data]);
    try {
      while (this.#rest.length >= 4) {
        const size = this.#rest.readUInt32BE();
        if (size < 1 || size > 2 << 20) throw new Error(`a frame has ${size} bytes`);
        if (this.#rest.length < 4 + size) return;
        const frame = this.#rest.subarray(4, 4 + size);
        this.#rest = this.#rest.subarray(4 + size);
        this.#accept(decode(frame));
      }
    } catch (error) {
      this.#fail(error instanceof ServerError ? error : new ProtocolError(error.message));
    }
  }

  #accept(message) {
    switch (message.type) {
      case "hello":
        if (!message.versions.includes(VERSION)) {
          throw new Error(`the server speaks version ${message.versions}; this client speaks ${VERSION}`);
        }
        this.send({ type: "hello", version: VERSION, agent: "node-example" });
        this.#greeted.resolve();
        return;
      case "ping":
        this.send({ type: "pong", number: message.number });
        return;
      case "goaway":
        this.#fail(new Lost(message.message));
        return;
      case "error":
        if (message.id === undefined || message.id === null) throw new ServerError(message);
        this.#take(message.id, new ServerError(message));
        return;
      default:
        this.#take(message.id, message);
    }
  }

  #take(id, message) {
    const take = this.#takers.get(id);
    if (take) take(message); // else its request was given up
  }

  #fail(error) {
    if (this.#error) return;
    this.#error = error;
    this.#socket.destroy();
    this.#greeted.reject(error);
    for (const take of this.#takers.values()) take(error);
    this.#takers.clear();
  }
}

/** A server, over as many connections as it takes. */
export class Client {
  #options;
  #connection = null;
  #heard = 0; // when something came of what was asked last

  /** *options*: host, port, and ca, cert and key as PEM. */
  constructor(options) {
    this.#options = options;
  }

  close() {
    this.#connection?.close();
  }

  /** Start a command, an array of strings, and return its job's id. */
  async run(command) {
    // The same id whenever it is asked again: the server starts it once.
    const fields = { request_id: randomUUID(), spec: { command: command.map((part) => Buffer.from(part)) } };
    return (await this.#again((connection) => connection.ask("run", fields))).job;
  }

  /** Send a signal to a job; return whether it had ended already. */
  async kill(job, signal = 9) {
    const answer = await this.#again((connection) => connection.ask("kill", { job, signal }));
    return answer.already_ended ?? false;
  }

  async status(job) {
    return (await this.#again((connection) => connection.ask("status", { job }))).status;
  }

  /**
   * Write a job's stdout by *write*, an async function, each byte once and in order.
   *
   * With *follow* it goes on until the job has ended. Returns the job's last status, or
   * null if it goes on.
   */
  async tail(job, write, { follow = false } = {}) {
    const digest = createHash("sha256");
    let place = 0; // the offset of the first byte that we do not have
    let window = WINDOW;

    for (;;) {
      const end = await this.#again(async (connection) => {
        const asked = window;
        window = FIRST_WINDOW;
        return await readOutput(connection, { job, offset: place, follow, credit: asked }, async (piece) => {
          this.#heard = Date.now();
          if (piece.type === "opened") {
            job = piece.job; // what a name stands for may be another job later
          } else if (piece.type === "gap") {
            process.stderr.write(`${piece.stop - place} bytes were not kept by the server\n`);
            place = piece.stop;
          } else {
            digest.update(piece.data);
            await write(piece.data);
            place += piece.data.length;
            window = WINDOW;
          }
        });
      });
      if (end.complete) {
        const said = end.status.stdout?.sha256;
        if (said && digest.digest().compare(said) !== 0) {
          throw new ProtocolError("the SHA-256 of the output is not the one that the server says");
        }
        return end.status;
      }
      if (!follow) return null;
    }
  }

  /** Do something on a connection, on the next one if that is lost. */
  async #again(action) {
    let failed = 0;
    let since = Date.now();
    for (let pause = 20; ; pause = Math.min(2 * pause, 2000)) {
      try {
        this.#connection ??= await Connection.open(this.#options);
        return await action(this.#connection);
      } catch (error) {
        const passes = error instanceof Lost || error.code === "unavailable";
        if (error instanceof Lost) this.#connection = null;
        if (this.#heard > failed) {
          since = this.#heard; // it gets on, by and by
          pause = 20;
        }
        failed = Date.now();
        if (!passes || failed - since > PATIENCE) throw error;
      }
      await sleep(pause * (0.5 + Math.random() / 2));
    }
  }
}

/** Read a stream, piece by piece, as credit allows; return its `end`. */
async function readOutput(connection, fields, take) {
  const arrived = [];
  let wake = () => {};
  const id = connection.request("output", { ...fields, stream: "stdout" }, (message) => {
    arrived.push(message);
    wake();
  });
  let place = fields.offset;
  let credit = fields.credit;
  let used = 0;

  for (;;) {
    while (!arrived.length) await new Promise((resolve) => (wake = resolve));
    const message = arrived.shift();
    if (message instanceof Error) throw message;
    if (message.offset !== place) {
      throw new ProtocolError(`${message.type} at offset ${message.offset}, not ${place}`);
    }
    switch (message.type) {
      case "opened":
        await take(message);
        break;
      case "gap":
        await take(message);
        place = message.stop;
        break;
      case "chunk":
        credit -= message.data.length;
        if (credit < 0) throw new ProtocolError("a chunk of more than its credit");
        await take(message);
        place += message.data.length;
        used += message.data.length;
        if (used >= fields.credit / 2) {
          // What has come through shows that more would.
          const more = used + Math.max(0, Math.min(WINDOW - credit - used, used));
          connection.send({ type: "credit", id, bytes: more });
          credit += more;
          used = 0;
        }
        break;
      case "end":
        return message;
      default:
        throw new ProtocolError(`${message.type} in answer to output`);
    }
  }
}

/** Whether it is of no use to connect again in the same way. */
function isRefusal(error) {
  return /^(ERR_SSL|ERR_TLS|CERT_|UNABLE_TO|SELF_SIGNED|DEPTH_ZERO|ENOTFOUND)/.test(error.code ?? "");
}

function resolvers() {
  const found = {};
  found.promise = new Promise((resolve, reject) => Object.assign(found, { resolve, reject }));
  return found;
}
