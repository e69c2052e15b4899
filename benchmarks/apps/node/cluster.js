// Node's side: the hello app behind `cluster`, round robin, as its documentation shows it; and the
// work app (../work.py). MAX_CONNECTIONS=4 in the environment: at most four a worker.
// node cluster.js WORKERS PORT [MODULE THAT A WORKER LOADS FIRST]
'use strict';
const cluster = require('node:cluster');
const [workers, port, preload] = process.argv.slice(2);

// The whole process's CPU time: Node 20 has none of a thread, and the other threads idle here.
function used() {
  const { user, system } = process.cpuUsage();
  return user + system;
}

function bodyFor(url) {
  if (url === '/') return 'hello';
  if (url.startsWith('/work/')) {
    const end = used() + Number(url.slice('/work/'.length)) * 1000;
    while (used() < end);
  }
  return String(process.pid);
}

if (cluster.isPrimary) {
  cluster.schedulingPolicy = cluster.SCHED_RR;
  cluster.on('exit', () => cluster.fork());
  for (let i = 0; i < Number(workers); i++) cluster.fork();
} else {
  if (preload) require(preload);
  const server = require('node:http').createServer((request, response) => {
    const body = bodyFor(request.url);
    response.writeHead(200, { 'Content-Type': 'text/plain', 'Content-Length': body.length });
    response.end(body);
  });
  server.keepAliveTimeout = 75_000; // the default of 5 s would close connections that others keep
  if (process.env.MAX_CONNECTIONS) server.maxConnections = Number(process.env.MAX_CONNECTIONS);
  server.listen(Number(port), '127.0.0.1');
}
