#!/usr/bin/env node
// A small command line: run, tail and kill, over client.mjs.

import { readFileSync } from "node:fs";
import { once } from "node:events";
import { parseArgs } from "node:util";

import { Client } from "./client.mjs";

const USAGE = `usage: twclient.mjs --host HOST:PORT --ca FILE --cert FILE --key FILE VERB ...
  run COMMAND [ARG...]          start a job, print its ID
  tail [-f] [--exit-code] JOB   write its stdout, byte for byte
  kill JOB                      end all of it`;

class UsageError extends Error {}

/** Split the arguments at the verb: what follows the command of run is its own. */
function parse(argv) {
  const text = { type: "string" };
  const options = { host: text, ca: text, cert: text, key: text };
  let at = 0;
  while (argv[at]?.startsWith("--")) at += argv[at].includes("=") ? 1 : 2;
  const { values } = parseArgs({ args: argv.slice(0, at), options });
  const missing = Object.keys(options).filter((name) => !values[name]);
  if (missing.length) throw new UsageError(`--${missing.join(", --")} missing`);
  const [verb, ...rest] = argv.slice(at);
  return { values, verb, rest };
}

async function write(data) {
  if (!process.stdout.write(data)) await once(process.stdout, "drain");
}

async function main(argv) {
  const { values, verb, rest } = parse(argv);
  const [, host, port] = /^\[?([^\]]+?)\]?:(\d+)$/.exec(values.host) ?? [];
  if (!host) throw new UsageError(`${values.host} is not HOST:PORT`);
  const [ca, cert, key] = ["ca", "cert", "key"].map((name) => readFileSync(values[name]));
  const client = new Client({ host, port: Number(port), ca, cert, key });

  try {
    switch (verb) {
      case "run": {
        if (rest[0] === "--") rest.shift();
        if (!rest.length) throw new UsageError("run what?");
        console.log(await client.run(rest));
        return 0;
      }
      case "tail": {
        const options = { follow: { type: "boolean", short: "f" }, "exit-code": { type: "boolean" } };
        const given = parseArgs({ args: rest, options, allowPositionals: true });
        const [job] = given.positionals;
        if (!job) throw new UsageError("tail which job?");
        const status = await client.tail(job, write, { follow: given.values.follow });
        return given.values["exit-code"] ? (status?.exit_code ?? 0) : 0;
      }
      case "kill": {
        if (rest.length !== 1) throw new UsageError("kill which job?");
        if (await client.kill(rest[0])) console.error(`job ${rest[0]} had already ended`);
        return 0;
      }
      default:
        throw new UsageError(verb ? `there is no ${verb}` : "no verb");
    }
  } finally {
    client.close();
  }
}

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  const isUsage = error instanceof UsageError || error.code?.startsWith("ERR_PARSE_ARGS");
  console.error(`twclient: error: ${error.message}${isUsage ? `\n${USAGE}` : ""}`);
  process.exitCode = isUsage ? 2 : 1;
}
