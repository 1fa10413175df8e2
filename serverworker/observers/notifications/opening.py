"""How a session comes to its notifications: from its settings, its state directory and its clocks."""

from __future__ import annotations

import os
import random
import secrets
import socket
import time
from typing import Any

from serverworker.monitor.session import Session
from serverworker.observers.notifications.mail import MailSink
from serverworker.observers.notifications.message import Whereabouts
from serverworker.observers.notifications.observer import Notifications, PreparedSink
from serverworker.observers.notifications.spool import SPOOL_NAME, Spool
from serverworker.observers.notifications.spool_writer import InThread
from serverworker.observers.notifications.webhook import Webhook
from serverworker.processes.state_directory import StateDirectory
from serverworker.values.settings import Settings


def open_notifications(
    *, reactor: Any, settings: Settings, session: Session, state: StateDirectory, in_thread: InThread
) -> Notifications:
    """The observer for all ways out that are configured; not started yet."""
    sinks: list[PreparedSink] = []
    if settings.mail.recipients:
        sinks.append(MailSink(reactor, settings.mail, in_thread))
    if settings.webhook.url is not None:
        sinks.append(Webhook(reactor, settings.webhook, in_thread))
    host, token = socket.gethostname(), secrets.token_hex(4)

    def where() -> Whereabouts:
        return Whereabouts(
            host=host,
            pid=os.getpid(),
            session=token,
            ports=session.ports(),
            state_directory=str(state.path),
            version=session.settings.app.version or "",
        )

    return Notifications(
        clock=reactor,
        wall_clock=time.time,
        settings=settings.notify,
        sinks=sinks,
        spool=Spool(state.path / SPOOL_NAME),
        in_thread=in_thread,
        publish=session.stream.publish,
        where=where,
        state=lambda: session.engine.state,
        key=lambda: session.key,
        chance=random.SystemRandom().random,
    )
