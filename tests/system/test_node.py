"""Node's ``http`` under ``--command``, put through what every application is put through."""

from __future__ import annotations

import shutil
import signal
from unittest import SkipTest

from tests.integration.programs import CHECKOUT
from tests.integration.sessions import is_alive, wait_until
from tests.system import SKIP
from tests.system.command_proof import CommandProof, program_of

SERVER = """
'use strict';
const crypto = require('crypto'), http = require('http'), net = require('net');
let leaving = false, sick = false;
const websockets = new Set();

const server = http.createServer((request, response) => {
  if (leaving) response.setHeader('Connection', 'close');
  if (request.url === '/crash') process.exit(7);
  if (request.url === '/hang') for (;;);
  if (request.url === '/sicken') sick = true;
  if (request.url === '/stream') {
    let pieces = 0;
    const timer = setInterval(() => {
      pieces += 1;
      response.write(pieces < 30 ? `piece ${pieces};\\n` : 'end');
      if (pieces === 30) { clearInterval(timer); response.end(); }
    }, 50);
    return;
  }
  response.statusCode = request.url === '/health' && sick ? 500 : 200;
  response.end('good');
});

server.on('upgrade', (request, socket) => {
  const guid = '258EAFA5-E914-47DA-95CA-C5AB0DC85B11';
  const accept = crypto.createHash('sha1').update(request.headers['sec-websocket-key'] + guid).digest('base64');
  socket.write('HTTP/1.1 101 Switching Protocols\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\n' +
    `Sec-WebSocket-Accept: ${accept}\\r\\n\\r\\n`);
  websockets.add(socket);
  socket.on('close', () => websockets.delete(socket));
  socket.on('error', () => {});
});

server.listen({ fd: Number(process.argv[2]) });

process.on('SIGTERM', () => {
  leaving = true;
  // Not server.close() of http: it closes the connections that wait for a next request, which may be on its way.
  net.Server.prototype.close.call(server, () => process.exit(0));
  for (const socket of websockets) socket.end(Buffer.from([0x88, 2, 0x03, 0xE9]));  // 1001, going away
});
"""


class NodeTests(CommandProof):
    """A server that accepts by itself, from a socket that it shares with its siblings."""

    skip = SKIP
    options = ("--command", "node server.js {fd}")
    module = "server.js"
    bad = "require('nothing_of_that_name');\n"

    def setUp(self) -> None:
        if shutil.which("node") is None:
            raise SkipTest("it takes Node (Debian's package nodejs)")

    def files(self) -> dict[str, str]:
        return {"server.js": SERVER}

    def test_deaths(self) -> None:
        """It serves; it exits, is killed, is stopped, loses its worker; each time the next one serves."""
        session = self.begin()
        self.check_served(session)
        self.check_crash(session)
        session.standby_ready_or_loaded()
        self.check_killed(session)
        session.standby_ready_or_loaded()
        self.check_stopped(session)
        session.standby_ready_or_loaded()
        self.check_keeper_killed(session)

    def test_hang(self) -> None:
        """An event loop that turns no more accepts nothing."""
        self.check_hang_of(self.begin(), "does not accept any more")

    def test_restart_under_load(self) -> None:
        """No request fails, with one worker and with two."""
        self.check_restart_under_load(self.begin())
        self.check_restart_under_load(self.begin("--workers", "2"))

    def test_documented(self) -> None:
        """The example of the documentation loses no request either, on new connections or kept ones."""
        text = (CHECKOUT / "docs" / "howto" / "code" / "server.js").read_text()
        session = self.session("--command", "node server.js {fd}", folder=self.folder(server__js=text))
        session.serving()
        self.check_restart_under_load(session)

    def test_bad_deploy(self) -> None:
        """Code that cannot be loaded is dropped; the old one goes on."""
        self.check_bad_deploy(self.begin())

    def test_drain(self) -> None:
        """A stream comes to its end, and a websocket is told that its server goes away."""
        session = self.begin()
        with session.connect() as websocket:
            key = b"dGhlIHNhbXBsZSBub25jZQ=="
            websocket.sendall(
                b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + key + b"\r\n\r\n"
            )
            self.assertIn(b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", websocket.recv(1000))
            self.check_drain_with_stream(session)
            self.assertEqual(b"\x88\x02\x03\xe9", websocket.recv(1000))
        self.assertEqual([], session.reports())

    def test_drain_deadline(self) -> None:
        """What is not finished at the deadline is killed, and that is no crash."""
        session = self.begin("--drain-timeout", "1")
        worker, program = session.serving()[-1]["worker"], program_of(session)
        with session.connect() as connection:
            connection.sendall(b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n")
            connection.recv(1000)
            after = len(session.events)
            session.process.send_signal(signal.SIGHUP)
            session.wait_for("RestartCompleted", after=after)
            session.wait_for("WorkerExited", matching=lambda event: event["worker"] == worker)
            while connection.recv(65536):
                pass
        wait_until(lambda: not is_alive(program), "the program's end")
        self.assertEqual([], session.reports())

    def test_the_rest(self) -> None:
        """The heartbeat sees an answer of 500; the agent's exit handlers run beside the program."""
        self.check_heartbeat(self.begin())
        self.check_exit_handlers(self.begin())

    def test_two_workers(self) -> None:
        """Of two that share the socket each is polled by itself: the sick one alone is replaced."""
        session = self.begin("--workers", "2")
        session.serving(2)
        self.assertEqual(200, session.get("/sicken")[0])
        died = session.wait_for("WorkerDied")
        self.assertIn("500", str(died["cause"]))
        session.serving(3)
        self.assertEqual(1, len([event for event in session.events if event["event"] == "WorkerDied"]))
