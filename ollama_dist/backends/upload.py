"""A connection to an engine for one request with a long body, which is written as it comes."""

import asyncio
from collections.abc import Callable

from ollama_dist.backends.http1 import Connection
from ollama_dist.runtime.splice import descriptor_of


class UploadConnection(Connection):
    """What cannot be sent at once stays where it is, in the writer's buffer: nothing is copied for later.

    After `send` of the head, and of a beginning of the body, `write` more of it. ``on_drained`` is called
    when all that was written has gone out, after `write` said that it had not.
    """

    __slots__ = ("on_drained",)

    def __init__(self) -> None:
        super().__init__()
        self.on_drained: Callable[[], None] = _nothing

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self._transport is not None:
            self._transport.set_write_buffer_limits(0)  # it is said when something waits, however little

    def write(self, data: bytes | memoryview) -> bool:
        """Whether all of it has gone out; if not, ``data`` must stay as it is until ``on_drained`` is called.

        To a connection that is gone nothing is written, and it does not matter.
        """
        transport = self._transport
        if transport is None or transport.is_closing():
            return True
        transport.write(data)
        return not transport.get_write_buffer_size()

    @property
    def descriptor(self) -> int | None:
        """See `runtime.splice`."""
        return None if self._transport is None else descriptor_of(self._transport)

    def resume_writing(self) -> None:
        self.on_drained()


def _nothing() -> None:
    pass
