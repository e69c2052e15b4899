// The token app for PM2's cluster mode, which starts it once a worker: PORT=8000 node token.js
'use strict';
const port = Number(process.env.PORT);
const server = require('node:http').createServer((request, response) => {
  let body = 'hello';
  if (request.url === '/pid') body = String(process.pid);
  if (request.url.startsWith('/echo/')) body = request.url.slice('/echo/'.length);
  response.writeHead(200, {
    'Content-Type': 'text/plain',
    'Content-Length': body.length,
    'X-Worker': process.pid,
  });
  response.end(body);
});
server.keepAliveTimeout = 75_000; // the default of 5 s would close connections that others keep
server.listen(port, '127.0.0.1');
