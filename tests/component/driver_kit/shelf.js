// A driver in JavaScript, with nothing but node: two shelves, each a folder of files, over the driver protocol on stdio.
//
// The first half speaks the protocol (messages, requests, streams); the second half is the driver.
'use strict';

const fs = require('node:fs/promises');
const path = require('node:path');

const PROTOCOL = '1.0';
const WINDOW = 262144; // bytes of credit that a stream begins with
const ITEMS = 16; // items of credit that a channel begins with
const CHUNK = 65536;
const CODES = {
  invalid_argument: -32602, not_found: -32001, already_exists: -32002, permission_denied: -32003, wrong_state: -32004,
  resource_exhausted: -32005, deadline_exceeded: -32006, capability_missing: -32601, stale_lease: -32007,
  device_lost: -32008, unavailable: -32009, driver_fault: -32603, cancelled: -32800,
};

class DriverError extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

// ----- the protocol

// A piece of work that can be cancelled: a request, or what goes on in a session.
class Work {
  constructor() {
    this.over = new Promise((_, reject) => { this.stop = reject; });
    this.over.catch(() => {});
  }

  // Wait for something, or for the end of this work.
  until(promise) {
    return Promise.race([promise, this.over]);
  }
}

// Wakes those who wait for a change.
class Changes {
  constructor() { this.tell(); }

  tell() {
    this.wake?.();
    this.next = new Promise((resolve) => { this.wake = resolve; });
  }
}

// Bytes from the host. It may send as much as it has credit for, and gets credit for what was taken.
class Inlet {
  constructor(id) {
    this.id = id;
    this.chunks = [];
    this.changes = new Changes();
  }

  async take(work) {
    while (!this.chunks.length) {
      if (this.error) throw new DriverError(this.error.data?.code ?? 'driver_fault', this.error.message);
      if (this.ended) return null;
      await work.until(this.changes.next);
    }
    const chunk = this.chunks.shift();
    if (!this.ended) notify('credit', { stream: this.id, amount: chunk.length });
    return chunk;
  }

  close() {
    inlets.delete(this.id);
    if (!this.ended) notify('drop', { stream: this.id });
  }
}

// Bytes, or items, to the host: sent as far as it gave credit.
class Outlet {
  constructor(id, credit) {
    this.id = id;
    this.credit = credit;
    this.changes = new Changes();
    outlets.set(id, this);
  }

  async room(work) {
    while (this.credit <= 0 && !this.dropped) await work.until(this.changes.next);
    return !this.dropped;
  }

  close() { outlets.delete(this.id); }
}

const inlets = new Map();
const outlets = new Map();
const requests = new Map();
let nextStream = 2; // a driver's own streams are even

function write(kind, payload) {
  const head = Buffer.alloc(5);
  head.writeUInt32BE(payload.length, 0);
  head.writeUInt8(kind, 4);
  process.stdout.write(Buffer.concat([head, payload]));
}

function send(message) { write(0, Buffer.from(JSON.stringify({ jsonrpc: '2.0', ...message }))); }

function notify(method, params) { send({ method, params }); }

function sendBytes(stream, data) {
  const head = Buffer.alloc(5);
  head.writeUInt32BE(stream, 0);
  head.writeUInt8(0, 4);
  write(1, Buffer.concat([head, data]));
}

function errorObject(error) {
  const code = error instanceof DriverError ? error.code : SYSTEM[error.code] ?? 'driver_fault';
  return { code: CODES[code] ?? CODES.driver_fault, message: error.message, data: { code, details: {} } };
}

// Errors of the file system, as errors of the table.
const SYSTEM = {
  ENOENT: 'not_found', EEXIST: 'already_exists', EACCES: 'permission_denied', EPERM: 'permission_denied',
  ENOSPC: 'resource_exhausted', EMFILE: 'resource_exhausted', ENOTDIR: 'invalid_argument', EISDIR: 'invalid_argument',
  ENAMETOOLONG: 'invalid_argument', ELOOP: 'invalid_argument',
};

async function answer({ id, method, params = {} }) {
  const work = new Work();
  requests.set(id, work);
  let timer;
  if (params.deadline) {
    timer = setTimeout(() => work.stop(new DriverError('deadline_exceeded', `${method} took too long`)),
      Math.min(params.deadline * 1000, 2 ** 31 - 1));
  }
  // What the host sends on a stream of its own may come before this request is worked on.
  const inlet = params.source === undefined ? undefined : new Inlet(params.source);
  if (inlet) inlets.set(inlet.id, inlet);
  try {
    const verb = VERBS[method];
    if (!verb) throw new DriverError('capability_missing', `there is no method ${method}`);
    const { result = null, after } = await verb(params, work, inlet) ?? {};
    send({ id, result });
    after?.();
  } catch (error) {
    send({ id, error: errorObject(error) });
  } finally {
    clearTimeout(timer);
    inlet?.close();
    requests.delete(id);
  }
}

function take(message) {
  if (message.method === undefined) return; // this driver asks nothing of its host
  if (message.id !== undefined) {
    answer(message);
    return;
  }
  const { id, stream, amount, error } = message.params ?? {};
  const inlet = inlets.get(stream);
  const outlet = outlets.get(stream);
  if (message.method === 'cancel') {
    requests.get(id)?.stop(new DriverError('cancelled', 'the request was cancelled'));
  } else if (message.method === 'credit' && outlet) {
    outlet.credit += amount;
    outlet.changes.tell();
  } else if (message.method === 'drop' && outlet) {
    outlet.dropped = true;
    outlet.changes.tell();
  } else if (message.method === 'end' && inlet) {
    inlet.ended = true;
    inlet.error = error;
    inlet.changes.tell();
  }
}

function takeBytes(payload) {
  const inlet = inlets.get(payload.readUInt32BE(0));
  if (inlet) {
    inlet.chunks.push(payload.subarray(5));
    inlet.changes.tell();
  }
}

let buffer = Buffer.alloc(0);
process.stdin.on('data', (data) => {
  buffer = Buffer.concat([buffer, data]);
  while (buffer.length >= 5 && buffer.length >= 5 + buffer.readUInt32BE(0)) {
    const end = 5 + buffer.readUInt32BE(0);
    const payload = buffer.subarray(5, end);
    if (buffer.readUInt8(4) === 0) take(JSON.parse(payload.toString()));
    else takeBytes(Buffer.from(payload));
    buffer = buffer.subarray(end);
  }
});
process.stdin.on('end', () => process.exit(0));

// ----- the driver

let root; // a folder for each shelf is below it
let parts = 0;
let nextSession = 1;
const sessions = new Map();
const changes = new Changes();
const shelves = new Map(['shelf-1', 'shelf-2'].map((identity) => [identity, { identity, plugged: true }]));

function fact(shelf) {
  return {
    identity: shelf.identity,
    platform: 'shelf',
    name: `Shelf ${shelf.identity.slice(-1)}`,
    status: shelf.plugged ? 'ready' : 'offline',
    model: 'folder',
    capabilities: ['files'],
    handle: shelf.identity,
  };
}

// The parameters of a request have the types that the verb needs, or it is refused.
function check(params, types) {
  for (const [name, type] of Object.entries(types)) {
    if (typeof params[name] !== type) throw new DriverError('invalid_argument', `${name} must be of type ${type}`);
  }
}

function known(identity) {
  const shelf = shelves.get(identity);
  if (!shelf) throw new DriverError('not_found', `there is no shelf ${identity}`);
  return shelf;
}

function plug(identity, plugged) {
  known(identity).plugged = plugged;
  changes.tell();
}

// The place of a device's path on this host. Links are not made by any verb, so none leads out of the folder.
function place({ session: number, path: wanted }) {
  const session = sessions.get(number);
  if (!session) throw new DriverError('not_found', `there is no session ${number}`);
  if (!session.shelf.plugged) throw new DriverError('device_lost', `${session.shelf.identity} was pulled off`);
  if (typeof wanted !== 'string' || !wanted.startsWith('/')) {
    throw new DriverError('invalid_argument', `${wanted} is no absolute path`);
  }
  if (wanted.includes('\0')) throw new DriverError('invalid_argument', 'a path must not hold a NUL character');
  const clean = path.posix.normalize(wanted);
  return { session, wanted: clean, real: path.join(root, session.shelf.identity, clean) };
}

async function entry(real, wanted) {
  const info = await fs.lstat(real);
  return {
    path: wanted,
    name: path.posix.basename(wanted) || '/',
    type: info.isDirectory() ? 'directory' : info.isFile() ? 'file' : 'other',
    size: info.isFile() ? info.size : 0,
    mode: info.mode & 0o7777,
    modified: info.mtimeMs / 1000,
  };
}

async function below(real, wanted, depth) {
  const found = [];
  for (const name of await fs.readdir(real)) {
    const one = await entry(path.join(real, name), path.posix.join(wanted, name));
    found.push(one);
    if (one.type === 'directory' && depth > 1) found.push(...await below(path.join(real, name), one.path, depth - 1));
  }
  return found;
}

async function isDirectory(real) {
  try {
    return (await fs.lstat(real)).isDirectory();
  } catch (error) {
    if (error.code === 'ENOENT') return false;
    throw error;
  }
}

async function makeParents(real) {
  try {
    await fs.mkdir(path.dirname(real), { recursive: true });
  } catch (error) {
    if (error.code === 'EEXIST' || error.code === 'ENOTDIR') {
      throw new DriverError('invalid_argument', 'a part of the path is a file');
    }
    throw error;
  }
}

async function empty(shelf) {
  await fs.rm(path.join(root, shelf.identity), { recursive: true, force: true });
  await fs.mkdir(path.join(root, shelf.identity, 'tmp'), { recursive: true });
}

async function pump(file, outlet, work) {
  try {
    while (await outlet.room(work)) {
      const { bytesRead, buffer: data } = await file.read(Buffer.alloc(Math.min(outlet.credit, CHUNK)));
      if (!bytesRead || outlet.dropped) break;
      outlet.credit -= bytesRead;
      sendBytes(outlet.id, data.subarray(0, bytesRead));
    }
    if (!outlet.dropped) notify('end', { stream: outlet.id });
  } catch (error) {
    notify('end', { stream: outlet.id, error: errorObject(error) });
  } finally {
    outlet.close();
    await file.close();
  }
}

const VERBS = {
  async initialize({ protocol, state_dir: folder, settings = {} }) {
    if (protocol.split('.')[0] !== PROTOCOL.split('.')[0]) {
      throw new DriverError('unavailable', `this driver speaks protocol ${PROTOCOL} and its host ${protocol}`);
    }
    const unknown = Object.keys(settings);
    if (unknown.length) throw new DriverError('invalid_argument', `there is no setting ${unknown[0]}`);
    root = folder;
    return {
      result: {
        protocol: PROTOCOL, name: 'shelf', version: '1.0.0', platforms: ['shelf'], capabilities: ['rehearsal'],
        settings_schema: { type: 'object', properties: {}, additionalProperties: false },
      },
    };
  },

  async ping() { return { result: {} }; },

  async 'driver.describe'() {
    return {
      result: {
        name: 'shelf', version: '1.0.0', platforms: ['shelf'], capabilities: ['files', 'rehearsal'],
        health: { state: 'healthy', reason: `node ${process.version} serves two shelves` },
      },
    };
  },

  async 'driver.start'() {
    for (const shelf of shelves.values()) {
      await fs.mkdir(path.join(root, shelf.identity, 'tmp'), { recursive: true });
    }
    await fs.rm(path.join(root, 'parts'), { recursive: true, force: true });
    await fs.mkdir(path.join(root, 'parts'));
  },

  async 'driver.stop'() {},

  async 'driver.watch'({ report }, work) {
    const channel = new Outlet(report, ITEMS);
    const told = new Map();
    try {
      for (;;) {
        const changed = changes.next;
        for (const shelf of shelves.values()) {
          if (told.get(shelf.identity) === shelf.plugged) continue;
          await channel.room(work);
          channel.credit -= 1;
          told.set(shelf.identity, shelf.plugged);
          const kind = shelf.plugged ? 'seen' : 'lost';
          notify('progress', { channel: report, value: { kind, device: fact(shelf) } });
        }
        await work.until(changed);
      }
    } finally {
      channel.close();
    }
  },

  async 'driver.clean'(params) {
    check(params, { device: 'object' });
    await empty(known(params.device.identity));
  },

  async 'driver.recover'(params) {
    check(params, { handle: 'string' });
    const { handle } = params;
    const shelf = shelves.get(handle);
    if (!shelf) return { result: { state: 'lost', reason: 'the handle is not one of this driver' } };
    return { result: { state: 'running', reason: 'the shelf is there', device: fact(shelf) } };
  },

  async 'rehearsal.unplug'({ identity }) { plug(identity, false); },

  async 'rehearsal.plug'({ identity }) { plug(identity, true); },

  async 'session.open'(params) {
    check(params, { device: 'object', lease: 'object' });
    const shelf = shelves.get(params.device.identity);
    if (!shelf?.plugged) throw new DriverError('device_lost', `the shelf ${params.device.identity} is not there`);
    const number = nextSession++;
    sessions.set(number, { shelf, work: new Work() });
    return { result: { session: number, device: fact(shelf), capabilities: ['files'] } };
  },

  async 'session.close'({ session }) {
    sessions.get(session)?.work.stop(new DriverError('wrong_state', 'the session was closed'));
    sessions.delete(session);
  },

  async 'files.read'(params) {
    const { session, real } = place(params);
    if (await isDirectory(real)) throw new DriverError('invalid_argument', `${params.path} is a directory`);
    const file = await fs.open(real);
    const outlet = new Outlet(nextStream, WINDOW);
    nextStream += 2;
    return { result: { stream: outlet.id }, after: () => pump(file, outlet, session.work) };
  },

  async 'files.write'(params, work, source) {
    const { session, real } = place(params);
    if (await isDirectory(real)) throw new DriverError('invalid_argument', `${params.path} is a directory`);
    const part = path.join(root, 'parts', `${parts++}`);
    const file = await fs.open(part, 'wx', params.mode ?? 0o644);
    let size = 0;
    try {
      for (let chunk; (chunk = await session.work.until(source.take(work))) !== null;) {
        await file.writeFile(chunk);
        size += chunk.length;
      }
      place(params); // it may have been pulled off meanwhile
      await makeParents(real);
      await fs.rename(part, real);
    } catch (error) {
      await fs.rm(part, { force: true });
      throw error;
    } finally {
      await file.close();
    }
    return { result: size };
  },

  async 'files.list'(params) {
    const { wanted, real } = place(params);
    const { depth = 1 } = params;
    if (depth < 1) throw new DriverError('invalid_argument', 'the depth of a listing is at least 1');
    const found = await below(real, wanted, depth);
    return { result: found.sort((one, other) => (one.path < other.path ? -1 : 1)) };
  },

  async 'files.stat'(params) {
    const { wanted, real } = place(params);
    return { result: await entry(real, wanted) };
  },

  async 'files.mkdir'(params) {
    const { wanted, real } = place(params);
    await makeParents(real);
    await fs.mkdir(real, { mode: params.mode ?? 0o755 });
    return { result: await entry(real, wanted) };
  },

  async 'files.remove'(params) { await fs.rm(place(params).real, { recursive: true }); },
};
