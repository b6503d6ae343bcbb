"""Where requests can be sent, and the connections kept open to each place."""

import asyncio
import os
import ssl
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from ollama_dist.backends.http1 import Connection, Head, Header, OnInterim, request_bytes
from ollama_dist.core.errors import UpstreamFailed, UpstreamRefused, UpstreamTimeout
from ollama_dist.core.ids import NodeId
from ollama_dist.runtime.tls import Tls

CONNECT_TIMEOUT_S: Final = 1.0
"""On a LAN a connection is made in milliseconds or not at all; TLS included."""

_LAST_LOOK_S: Final = 0.1
"""The part of it in which it is seen what came while this process was held up."""

HANDSHAKES: Final = 4
"""Connections being made at once per place. One costs either side milliseconds of work: were a hundred begun
together, the last would look like one to a place that does not answer."""

HANDSHAKE_WAIT_S: Final = 15.0
"""How long one may wait for its turn, which comes as long as those before it succeed."""

IDLE_LIMIT_S: Final = 30.0
"""A connection unused for longer is closed: well before the other side would."""

IDLE_CONNECTIONS: Final = 256
"""Open connections kept for later per place."""


@dataclass(frozen=True, slots=True)
class Security:
    """Mutual TLS towards one peer. ``verify`` raises unless the other side is exactly that peer."""

    context: ssl.SSLContext
    server_name: str
    verify: Callable[[asyncio.Transport], None]
    bulk: ssl.SSLContext | None = None
    """Instead of ``context``, for connections that are for bytes of models alone."""


class Target:
    """One engine or one peer: its address, and a last-in first-out pool of idle connections to it."""

    def __init__(self, node: NodeId, host: str, port: int, security: Security | None = None) -> None:
        self.node = node
        self.host = host
        self.port = port
        self.authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._security = security
        self._idle: deque[tuple[float, Connection]] = deque()
        self._busy: set[Connection] = set()
        self._outdated: set[Connection] = set()
        """Of those, the ones secured in a way that is not to be used again."""
        self._turns = asyncio.Semaphore(HANDSHAKES)
        self._made_at = self._refused_at = float("-inf")
        """When a connection was made last, and when one could not be (loop time)."""

    @property
    def security(self) -> Security | None:
        """How connections are secured from now on."""
        return self._security

    async def open(
        self,
        method: str,
        path: str,
        headers: Sequence[Header],
        body: bytes,
        *,
        head_timeout: float,
        on_interim: OnInterim | None = None,
        is_fresh: bool = False,
    ) -> tuple[Connection, Head]:
        """Send a request and wait for the head of its answer, at most ``head_timeout`` seconds.

        An idle connection that turns out to be dead before a byte of the answer is replaced, once, by a fresh
        one: it was closed before the request was seen. With ``is_fresh`` none is used, for that can be
        guessed but not known. Raises `UpstreamRefused`, `UpstreamTimeout` or `UpstreamFailed`; nothing is
        left open then, nor when the caller is cancelled.
        """
        data = request_bytes(method, path, self.authority, headers, body)
        while True:
            connection = (None if is_fresh else self._take_idle()) or await self._in_turn(is_fresh=is_fresh)
            self._busy.add(connection)
            try:
                connection.send(data)
                connection.on_interim = on_interim
                return connection, await connection.head(connection.loop.time() + head_timeout)
            except UpstreamRefused:
                self.drop(connection)
                if connection.exchanges < 2 or connection.answered:
                    raise
                self.close()  # its idle neighbours are most likely as dead
            except BaseException:
                self.drop(connection)
                raise

    def give_back(self, connection: Connection) -> None:
        """The exchange is over: keep the connection if another may follow on it, else close it."""
        now, idle = time.monotonic(), self._idle
        self._busy.discard(connection)
        while idle and idle[0][0] < now - IDLE_LIMIT_S:
            idle.popleft()[1].close()
        if connection in self._outdated:
            self._outdated.remove(connection)
            connection.close()
        elif connection.is_reusable and len(idle) < IDLE_CONNECTIONS:
            idle.append((now, connection))
        else:
            connection.close()

    def drop(self, connection: Connection) -> None:
        """Close a connection whose exchange is not read to its end."""
        self._busy.discard(connection)
        self._outdated.discard(connection)
        connection.close()

    def renew(self, security: Security | None) -> None:
        """Secure later connections so. Exchanges under way end by themselves; theirs are not used again."""
        if security is not self._security:
            self._security = security
            self._outdated |= self._busy
            self.close()

    def fail(self) -> None:
        """The place is gone: break off what is under way there, so that nobody waits for it."""
        for connection in self._busy:
            connection.close()
        self.close()

    def close(self) -> None:
        """Close what is idle; exchanges under way end by themselves."""
        idle, self._idle = self._idle, deque()
        for _, connection in idle:
            connection.close()

    def _take_idle(self) -> Connection | None:
        idle = self._idle
        while idle:
            since, connection = idle.pop()
            if connection.is_open and since >= time.monotonic() - IDLE_LIMIT_S:
                return connection
            connection.close()
        return None

    async def _in_turn(self, *, is_fresh: bool) -> Connection:
        """A connection made when few others are; or, if it need not be fresh, one that became free by then.

        A place that takes nobody's connection is gone: one that finds that out tells all that wait. One that
        took another's meanwhile is only slow, as this machine may be: then it is tried again.
        """
        loop = asyncio.get_running_loop()
        asked_at = loop.time()
        while True:
            await self._turn(asked_at + HANDSHAKE_WAIT_S)
            began_at = loop.time()
            try:
                if self._refused_at > asked_at and self._made_at < began_at - CONNECT_TIMEOUT_S:
                    raise _unsent(UpstreamTimeout(f"{self.authority} does not take connections"))
                connection = (None if is_fresh else self._take_idle()) or await self._connect()
            except UpstreamFailed as failure:
                self._refused_at = loop.time()
                if not isinstance(failure, UpstreamTimeout) or self._made_at <= began_at:
                    raise
            else:
                self._made_at = loop.time()
                return connection
            finally:
                self._turns.release()

    async def _turn(self, until: float) -> None:
        try:
            async with asyncio.timeout_at(until):
                await self._turns.acquire()
        except TimeoutError as error:
            late = UpstreamTimeout(f"too many connections to {self.authority} are being made")
            raise _unsent(late) from error

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        security = self._security
        try:
            async with asyncio.timeout(None) as limit:
                # Of a loop that was held up itself the timers come first, and then what came meanwhile.
                late = loop.call_later(
                    CONNECT_TIMEOUT_S - _LAST_LOOK_S,
                    lambda: limit.reschedule(loop.time() + _LAST_LOOK_S),
                )
                try:
                    connection = await self._connected(loop, security)
                finally:
                    late.cancel()
            connection.raise_refusal()
        except TimeoutError as error:
            text = f"{self.authority} did not take a connection in time"
            raise _unsent(UpstreamTimeout(text)) from error
        except OSError as error:
            # Of the library's words only what the system says: callers read this.
            reason = os.strerror(error.errno) if error.errno else "it was broken off"
            raise _unsent(UpstreamRefused(f"{self.authority} refused the connection: {reason}")) from error
        except UpstreamRefused as refusal:
            raise _unsent(refusal) from refusal.__cause__
        if security is not self._security:
            self._outdated.add(connection)
        return connection

    async def _connected(self, loop: asyncio.AbstractEventLoop, security: Security | None) -> Connection:
        if security is None:
            _, connection = await loop.create_connection(Connection, self.host, self.port)
            return connection
        connection = Connection(security.verify)
        _, tls = await loop.create_connection(
            lambda: Tls(connection, security.context, server_name=security.server_name), self.host, self.port
        )
        try:
            await tls.made()
        except BaseException:
            tls.abort()
            raise
        return connection


def _unsent(failure: UpstreamFailed) -> UpstreamFailed:
    failure.is_sent = False
    return failure
