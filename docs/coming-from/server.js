const http = require("http");

const server = http.createServer((request, response) => response.end("Hello from Node\n"));
server.listen({ fd: 3 });                       // pm2: server.listen(8080)
process.on("SIGTERM", () => server.close());    // pm2: SIGINT
