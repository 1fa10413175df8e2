"""The ports that the monitor has bound: it owns the sockets, and never accepts."""

from __future__ import annotations

import socket
from collections.abc import Collection, Iterable, Mapping, Sequence

from serverworker.processes.sockets import SocketFile, bind, describe_bound, file_of, release
from serverworker.processes.spawn import BoundPort
from serverworker.values.errors import ConfigurationError, nearest
from serverworker.values.ports import PortSettings, parse_port


class Ports:
    """The session's ports, by name. A socket lives as long as a generation may need it."""

    def __init__(self, bound: Mapping[str, socket.socket], activated: Collection[str] = ()) -> None:
        """Takes over sockets that `serverworker.processes.sockets.bind` has made, or that came from systemd.

        `activated` names the latter. Their files are not ours to remove: systemd goes on listening there.
        """
        self._bound = dict(bound)
        self._activated = [bound[name] for name in activated]
        self._files: dict[str, SocketFile | None] = {
            name: None if name in activated else file_of(each) for name, each in bound.items()
        }
        self._former: list[tuple[socket.socket, SocketFile | None]] = []
        self._before: tuple[dict[str, socket.socket], dict[str, SocketFile | None]] | None = None

    def bound(self) -> tuple[BoundPort, ...]:
        """What the next generation is handed."""
        return tuple(
            BoundPort(name=name, description=describe_bound(each), socket=each)
            for name, each in self._bound.items()
        )

    def own_names(self, ports: Iterable[BoundPort]) -> list[str]:
        """The names of those that the session has bound itself: another program listens on the others as well."""
        return [port.name for port in ports if port.socket not in self._activated]

    def described(self) -> tuple[str, ...]:
        """Each as ``name=address``."""
        return tuple(f"{port.name}={port.description}" for port in self.bound())

    def change(self, name: str, description: int | str) -> PortSettings:
        """Give a port another address, bound here and now; the generation that serves keeps the former one.

        Raises `ConfigurationError` and `PortUnavailable`, and changes nothing then.
        """
        if name not in self._bound:
            raise ConfigurationError(f"there is no port {name!r}{nearest(name, list(self._bound))}")
        settings = parse_port(name, description)
        made = bind(settings)
        self._former.append((self._bound[name], self._files[name]))
        self._bound[name], self._files[name] = made, file_of(made)
        return settings

    def replace(self, ports: Sequence[PortSettings], current: Sequence[PortSettings]) -> None:
        """Have these ports in the place of the `current` ones; only those that differ are bound.

        Raises `PortUnavailable`, and changes nothing then.
        """
        known = {port.name: port for port in current}
        made: dict[str, socket.socket] = {}
        try:
            for port in ports:
                if known.get(port.name) != port:
                    made[port.name] = bind(port)
        except BaseException:
            for each in made.values():
                release(each)
            raise
        self._before = (self._bound, self._files)
        names = [port.name for port in ports]
        self._former += [
            (each, self._files[name])
            for name, each in self._bound.items()
            if name in made or name not in names
        ]
        self._bound = {name: made.get(name) or self._bound[name] for name in names}
        self._files = {name: file_of(made[name]) if name in made else self._files[name] for name in names}

    def take_back(self) -> None:
        """Undo the last `replace`; what it bound is closed with the former ones."""
        if self._before is not None:
            bound, files = self._before
            self._former += [
                (each, self._files[name]) for name, each in self._bound.items() if each not in bound.values()
            ]
            self._former = [each for each in self._former if each[0] not in bound.values()]
            self._bound, self._files, self._before = bound, files, None

    def close_former(self, needed: Collection[socket.socket] = ()) -> None:
        """Close the former sockets, but for those that are still `needed`: a worker may yet be started with them."""
        for former, file in self._former:
            if former not in needed:
                former.close()
                if file is not None:
                    file.unlink()
        self._former = [each for each in self._former if each[0] in needed]

    def close(self) -> None:
        """Close all, and remove the files of unix sockets that are still ours."""
        self.close_former()
        for name, each in self._bound.items():
            each.close()
            file = self._files[name]
            if file is not None:
                file.unlink()
        self._bound.clear()
