// Node's side: the hello app behind `cluster`, round robin, as its documentation shows it.
// node cluster.js WORKERS PORT [MODULE THAT A WORKER LOADS FIRST]
'use strict';
const cluster = require('node:cluster');
const [workers, port, preload] = process.argv.slice(2);

if (cluster.isPrimary) {
  cluster.schedulingPolicy = cluster.SCHED_RR;
  cluster.on('exit', () => cluster.fork());
  for (let i = 0; i < Number(workers); i++) cluster.fork();
} else {
  if (preload) require(preload);
  const server = require('node:http').createServer((request, response) => {
    const body = request.url === '/pid' ? String(process.pid) : 'hello';
    response.writeHead(200, { 'Content-Type': 'text/plain', 'Content-Length': body.length });
    response.end(body);
  });
  server.keepAliveTimeout = 75_000; // the default of 5 s would close connections that others keep
  server.listen(Number(port), '127.0.0.1');
}
