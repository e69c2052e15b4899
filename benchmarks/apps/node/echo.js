// Echo round trips a second over Node's channel: the parent sends, the child sends back.
// node echo.js fork|cluster json|advanced IN_FLIGHT WARM_UP MEASURED; prints {"per_second": ...}
'use strict';
const cluster = require('node:cluster');
const childProcess = require('node:child_process');
const [kind, serialization, inFlight, warmUp, measured] = process.argv.slice(2);

function startChild() {
  if (kind === 'cluster') {
    cluster.setupPrimary({ serialization });
    return cluster.fork();
  }
  return childProcess.fork(__filename, ['child'], { serialization });
}

function roundTrips(child, total) {
  return new Promise((resolve) => {
    let sent = 0;
    let received = 0;
    const send = () => child.send({ n: sent++ });
    const onMessage = (message) => {
      if (message.n !== received) throw new Error(`expected ${received}, got ${message.n}`);
      received += 1;
      if (sent < total) send();
      if (received === total) {
        child.off('message', onMessage);
        resolve();
      }
    };
    child.on('message', onMessage);
    for (let i = 0; i < Number(inFlight); i++) send();
  });
}

async function main() {
  const child = startChild();
  await roundTrips(child, Number(warmUp));
  const began = process.hrtime.bigint();
  await roundTrips(child, Number(measured));
  const seconds = Number(process.hrtime.bigint() - began) / 1e9;
  console.log(JSON.stringify({ per_second: Number(measured) / seconds }));
  child.disconnect();
}

if (cluster.isWorker || kind === 'child') process.on('message', (message) => process.send(message));
else main();
