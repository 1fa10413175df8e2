'use strict';
const http = require('http'), net = require('net');

let leaving = false;
const server = http.createServer((request, response) => {
  if (leaving) response.setHeader('Connection', 'close');
  response.end('hello\n');
});

server.listen({ fd: Number(process.argv[2]) });

process.on('SIGTERM', () => {
  leaving = true;
  // The close() of http ends the connections that wait for a next request, which may be on its way; this one lets
  // them have it. Node ends them itself after server.keepAliveTimeout, 5 s.
  net.Server.prototype.close.call(server, () => process.exit(0));
});
