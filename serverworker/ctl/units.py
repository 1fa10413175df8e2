"""The text of systemd's units: what is decided stands in a `Service`, and here is how it is written (systemd.exec(5))."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from attrs import frozen

from serverworker.values.ports import PortSettings

WATCHDOG_SECONDS = 30
"""The monitor says twice in this time that it is well."""
LONGEST_ABORT_SECONDS = 10.0
"""What requests in flight get at most where the watchdog ends the session: meanwhile nobody accepts new ones."""
_MARGIN_SECONDS = 15
"""What systemd waits longer than the session, which kills what has not ended by its own deadlines."""


@frozen(kw_only=True)
class Service:
    """What a session's service comes to."""

    name: str
    """Of the unit, and of its folders below /var/lib and /run."""
    program: str
    """The folder that twistd and serverworkerctl stand in."""
    twistd: tuple[str, ...] = ()
    """Options of twistd's own."""
    options: tuple[str, ...] = ()
    """Those of `twistd serverworker`, each path in them absolute."""
    directory: str
    user: str | None
    """None: a user that exists while the service runs."""
    drain_seconds: float
    unready_seconds: float
    low_port: bool
    """Whether the session itself binds a port below 1024."""
    control_is_local: bool
    """Whether `serverworkerctl` reaches the session without a key."""
    runs_programs: bool
    """Whether the application is a program of its own (``--command``)."""
    logs: tuple[str, ...] = ()
    """Folders below /var/log."""
    writable: tuple[str, ...] = ()
    sockets: tuple[PortSettings, ...] = ()
    """The ports that systemd binds."""


def service_text(service: Service) -> str:
    """The ``.service`` unit."""
    sections = (
        ("Unit", _unit(service)),
        ("Service", [*_process(service), "", *_places(service), "", *_sandbox(service)]),
        ("Install", _install(service)),
    )
    return "\n".join("\n".join([f"[{title}]", *lines, ""]) for title, lines in sections)


def socket_text(service: Service, port: PortSettings) -> str:
    """The ``.socket`` unit of one port."""
    lines = ["[Unit]", f"Description=Port {port.name} of {service.name}", "", "[Socket]"]
    lines += [f"ListenStream={_listen(port)}", f"FileDescriptorName={port.name}", f"Backlog={port.backlog}"]
    if port.kind == "unix":
        lines.append(f"SocketMode={port.mode:04o}")
    elif port.kind == "tcp6":
        lines.append("BindIPv6Only=ipv6-only")
    lines += [f"Service={service.name}.service", "", "[Install]", "WantedBy=sockets.target", ""]
    return "\n".join(lines)


def socket_name(service: Service, port: PortSettings) -> str:
    """The name of a port's ``.socket`` unit."""
    return f"{service.name}.socket" if port.name == "server" else f"{service.name}-{port.name}.socket"


def quoted(word: str) -> str:
    """A word of a command line as systemd reads it, in quotes where it needs them."""
    text = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    text = text.replace("\n", "\\n").replace("\t", "\\t")
    plain = bool(word) and not any(each in word for each in " \t\n\"'\\;")
    return text if plain else f'"{text}"'


def path_text(path: str) -> str:
    """A path where a unit takes several, or one with specifiers in it."""
    text = path.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{text}"' if " " in path or text != path.replace("%", "%%") else text


def _listen(port: PortSettings) -> str:
    if port.kind == "unix":
        return port.path.replace("%", "%%")
    if port.kind == "tcp6":
        return f"[{port.interface or '::'}]:{port.port}"
    return f"{port.interface or '0.0.0.0'}:{port.port}"


def _unit(service: Service) -> list[str]:
    lines = [
        f"Description={service.name}, served by serverworker",
        "After=network-online.target",
        "Wants=network-online.target",
    ]
    sockets = " ".join(socket_name(service, port) for port in service.sockets)
    return [*lines, f"Requires={sockets}", f"After={sockets}"] if sockets else lines


def _process(service: Service) -> list[str]:
    twistd = _command(
        service, "twistd", "--nodaemon", "--pidfile=", *service.twistd, "serverworker", *service.options
    )
    reload = _command(service, "serverworkerctl", "restart", "clean")
    lines = ["Type=notify", f"ExecStart={twistd}"]
    lines.append(f"ExecReload={reload if service.control_is_local else '/bin/kill -HUP $MAINPID'}")
    lines += [f"WorkingDirectory={service.directory.replace('%', '%%')}"]
    if service.runs_programs:
        # As a shell there finds them: gunicorn beside twistd, node in /usr/bin.
        path = f"{service.program}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"
        lines.append(f"Environment={quoted(f'PATH={path}')}")
    abort = min(service.drain_seconds, LONGEST_ABORT_SECONDS) + 5
    stop = service.unready_seconds + service.drain_seconds + _MARGIN_SECONDS
    return [
        *lines,
        f"KillMode={'mixed' if service.runs_programs else 'control-group'}",
        f"TimeoutStopSec={stop:.0f}",
        f"WatchdogSec={WATCHDOG_SECONDS}",
        "WatchdogSignal=SIGTERM",
        f"TimeoutAbortSec={abort:.0f}",
        "Restart=on-failure",
        "RestartSec=2",
        "RestartPreventExitStatus=64 78",
        "LimitNOFILE=65536",
    ]


def _command(service: Service, program: str, *words: str) -> str:
    return " ".join(quoted(word) for word in (f"{service.program}/{program}", *words))


def _places(service: Service) -> list[str]:
    lines = ["DynamicUser=yes" if service.user is None else f"User={service.user}"]
    lines += [
        f"StateDirectory={service.name}",
        "StateDirectoryMode=0700",
        f"RuntimeDirectory={service.name}",
        *_several("LogsDirectory", service.logs),
        *_several("ReadWritePaths", service.writable),
    ]
    if service.sockets:
        lines.append(f"Sockets={' '.join(socket_name(service, port) for port in service.sockets)}")
    return lines


def _several(name: str, paths: Sequence[str]) -> list[str]:
    return [f"{name}={' '.join(map(path_text, paths))}"] if paths else []


def _sandbox(service: Service) -> Iterable[str]:
    if service.low_port:
        yield "AmbientCapabilities=CAP_NET_BIND_SERVICE"
        yield "CapabilityBoundingSet=CAP_NET_BIND_SERVICE"
    else:
        yield "CapabilityBoundingSet="
    yield from _SANDBOX


_SANDBOX = (
    "NoNewPrivileges=yes",
    "ProtectSystem=strict",
    "ProtectHome=yes",
    "PrivateTmp=yes",
    "PrivateDevices=yes",
    "ProtectProc=invisible",
    "ProtectClock=yes",
    "ProtectControlGroups=yes",
    "ProtectHostname=yes",
    "ProtectKernelLogs=yes",
    "ProtectKernelModules=yes",
    "ProtectKernelTunables=yes",
    "LockPersonality=yes",
    "RestrictNamespaces=yes",
    "RestrictRealtime=yes",
    "RestrictSUIDSGID=yes",
    "RemoveIPC=yes",
    "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK",
    "SystemCallArchitectures=native",
    "SystemCallFilter=@system-service",
    "SystemCallFilter=~@privileged @resources",
    "SystemCallErrorNumber=EPERM",
    "UMask=0027",
)
"""For every session. Not `MemoryDenyWriteExecute`: the callbacks of cffi, and so TLS, need such memory, as Node does."""


def _install(service: Service) -> list[str]:
    sockets = " ".join(socket_name(service, port) for port in service.sockets)
    return ["WantedBy=multi-user.target", *([f"Also={sockets}"] if sockets else [])]
