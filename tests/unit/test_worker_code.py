"""What a worker does of ``--reload`` and of certificates when the monitor says so."""

from __future__ import annotations

from typing import Any

from serverworker.processes.listeners import Listeners
from serverworker.values.settings import AppSettings, Settings
from serverworker.wire import commands
from tests.unit.certificates import issue
from tests.unit.worker_session_case import WorkerSessionTestCase


class WorkerCodeTests(WorkerSessionTestCase):
    """`WorkerSession`, asked by a monitor."""

    def test_imported_files(self) -> None:
        """It answers which files it has imported, the application's own among them."""
        self.bring_up()
        answer = self.monitor.link.ask(commands.ImportedFiles, 10)
        self.reactor.turn()
        found = self.successResultOf(answer)["files"]
        self.assertTrue([each for each in found if each.endswith(f"/{self.name}.py")])

    def closed_idle(self, *, reload: bool) -> int:
        """How often idle connections were closed by a restart."""
        closed: list[Any] = []

        def close_idle(listeners: Listeners) -> None:
            closed.append(listeners)

        self.patch(Listeners, "close_idle", close_idle)
        self.monitor.settings = Settings(app=AppSettings(resource=f"{self.name}:root", reload=reload))
        self.bring_up()
        self.leave()
        self.reactor.turn()
        self.reactor.advance(0)
        self.reactor.turn()
        return len(closed)

    def test_idle_connections(self) -> None:
        """A restart leaves them one more answer: no request is to be lost."""
        self.assertEqual(self.closed_idle(reload=False), 0)

    def test_idle_connections_with_reload(self) -> None:
        """In development it closes them: the next answer is to be the new code's."""
        self.assertEqual(self.closed_idle(reload=True), 1)

    def test_certificates(self) -> None:
        """What it is handed later goes to its ports; before it has joined there is nothing to do."""
        issued = issue("x")
        told = {
            "server": {
                "certificate": issued.certificate_pem(),
                "private_key": issued.key_pem(),
                "minimum_version": "1.2",
            }
        }
        self.order(commands.UseCertificates, tls=told)
        used: list[Any] = []
        self.patch(Listeners, "use_tls", lambda listeners, tls: used.append(tls))
        self.bring_up()
        self.order(commands.UseCertificates, tls=told)
        self.assertEqual([tls["server"].certificate for tls in used], [issued.certificate_pem()])
