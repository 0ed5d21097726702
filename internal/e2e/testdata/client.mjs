// SPDX-License-Identifier: Apache-2.0
// A client for the end-to-end tests: does what its arguments say, prints JSON.
import dns from 'node:dns';
import http from 'node:http';
import https from 'node:https';
import net from 'node:net';

function get(url, family) {
  const mod = url.startsWith('https:') ? https : http;
  return new Promise((resolve, reject) => {
    mod.get(url, { family: Number(family || 0), timeout: 15000 }, (res) => {
      let body = '';
      res.on('data', (d) => { body += d; });
      res.on('end', () => resolve({ status: res.statusCode, body }));
      res.on('error', reject);
    }).on('error', reject);
  });
}

async function fetched(url) {
  const res = await fetch(url, { signal: AbortSignal.timeout(15000) });
  return { status: res.status, body: await res.text() };
}

async function resolve(name) {
  return { addrs: await dns.promises.resolve4(name) };
}

function connect(host, port) {
  return new Promise((ok, fail) => {
    const s = net.connect({ host, port: Number(port) }, () => {
      ok({ peer: [s.remoteAddress, s.remotePort] });
      s.destroy();
    });
    s.on('error', fail);
  });
}

const verbs = { get, fetched, resolve, connect };
let out;
try {
  out = await verbs[process.argv[2]](...process.argv.slice(3));
} catch (e) {
  const cause = e.cause ?? e;
  out = { error: String(cause.message ?? cause), code: cause.code ?? cause.errors?.[0]?.code };
}
console.log(JSON.stringify(out));
