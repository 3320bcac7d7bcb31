// BullMQ on Node: `node bullmq.mjs produce|work`, told what to do as bench/subjects/__main__.py is.
// The variant: "" for its one job at a time, "best" for 100 and no results.

import { closeSync, openSync, readFileSync, writeSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { Queue, Worker } from 'bullmq';

const PAYLOAD_BYTES = 64;
const BULK = 1000;
const TASKS = 1000;

const settings = JSON.parse(process.env.PYQUEUE_BENCH);
const best = settings.variant === 'best';
const url = new URL(settings.url);
const connection = { host: url.hostname, port: Number(url.port) };

const range = (count, start) =>
  Array.from({ length: count }, (_, i) => String(start + i).padStart(PAYLOAD_BYTES, '0'));

function produce() {
  const queue = new Queue(settings.queue, {
    connection,
    defaultJobOptions: best ? { removeOnComplete: true } : {},
  });
  const add = (payload) => queue.add('task', { payload });
  const orders = {
    async push(items) {
      for (const item of items) await add(item);
    },
    async push_tasks(items) {
      const left = items.values();
      const task = async () => {
        for (const item of left) await add(item);
      };
      await Promise.all(Array.from({ length: TASKS }, task));
    },
    async push_bulk(items) {
      for (let start = 0; start < items.length; start += BULK) {
        const some = items.slice(start, start + BULK);
        await queue.addBulk(some.map((payload) => ({ name: 'task', data: { payload } })));
      }
    },
  };
  orders.fill = orders.push_bulk;
  const version = (name) =>
    JSON.parse(readFileSync(new URL(`node_modules/${name}/package.json`, import.meta.url))).version;
  const answer = (value) => writeSync(1, JSON.stringify(value) + '\n');
  answer({
    offers: ['push_tasks', 'push_bulk'],
    versions: {
      bullmq: version('bullmq'),
      ioredis: version('ioredis'),
      node: process.version.slice(1),
    },
  });
  const lines = createInterface({ input: process.stdin });
  let chain = Promise.resolve();
  const carryOut = async (line) => {
    const order = JSON.parse(line);
    const items = range(order.count, order.start);
    const began = Number(process.hrtime.bigint());
    await orders[order.do](items);
    answer({ began, ended: Number(process.hrtime.bigint()) });
  };
  lines.on('line', (line) => {
    chain = chain.then(() => carryOut(line));
  });
  lines.on('close', () => process.exit());
}

function work() {
  const pipe = settings.pipe ? openSync(settings.pipe, 'w') : -1;
  const record = settings.record ? openSync(settings.record, 'a') : -1;
  let number = 0;
  const done = (payload) => {
    if (payload.length !== PAYLOAD_BYTES) throw new Error(`not a payload: ${payload}`);
    number += 1;
    if (pipe >= 0 && (number >= settings.last || number === settings.first)) {
      writeSync(pipe, `${number} ${process.hrtime.bigint()}\n`);
    }
    if (record >= 0) writeSync(record, `${payload}\n`);
  };
  const handle = async (job) => {
    if (settings.hold) await new Promise((resolve) => setTimeout(resolve, Math.random() * settings.hold * 2000));
    done(job.data.payload);
  };
  const worker = new Worker(settings.queue, handle, {
    connection,
    ...(best ? { concurrency: 100 } : {}),
    ...(settings.tuned ? { lockDuration: 5000, stalledInterval: 5000 } : {}),
  });
  worker.on('error', (error) => console.error(error));
  // It ends with the harness, which holds the other end.
  process.stdin.resume();
  process.stdin.on('end', () => {
    if (pipe >= 0) closeSync(pipe);
    process.exit();
  });
}

if (process.argv[2] === 'produce') produce();
else work();
