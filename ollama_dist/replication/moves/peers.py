"""Short questions to other nodes, in JSON, over their node listeners."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson

from ollama_dist.backends.fetch import fetch
from ollama_dist.backends.target import Target
from ollama_dist.core.errors import DistError, UpstreamFailed, UpstreamRefused
from ollama_dist.core.ids import NodeId

ANSWER_LIMIT: Final = 4 * 2**20
ASK_S: Final = 5.0
"""A node answers these from memory, or after one write to its disk."""


class PeerRefused(DistError):
    """The other node said no; nothing was changed there."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.said_status = status
        self.said_code = code


class Peers:
    """Asks other nodes. ``target`` is where each is reached, None where that is not known."""

    def __init__(self, target: Callable[[NodeId], Target | None]) -> None:
        self._target = target

    async def ask(
        self,
        node: NodeId,
        method: str,
        path: str,
        document: Mapping[str, Any] | None = None,
        *,
        timeout: float = ASK_S,
    ) -> Any:
        """What the node answers. Raises `UpstreamFailed` when it does not, `PeerRefused` when it says no."""
        target = self._target(node)
        if target is None:
            raise UpstreamRefused("its address is not known")
        body = b"" if document is None else orjson.dumps(dict(document))
        headers = [("content-type", "application/json")] if body else []
        answer = await fetch(
            target, method, path, headers=headers, body=body, timeout=timeout, limit=ANSWER_LIMIT
        )
        try:
            said = orjson.loads(answer.body or b"null")
        except orjson.JSONDecodeError:
            said = None
        if 200 <= answer.status < 300:
            return said
        if isinstance(said, dict) and isinstance(said.get("code"), str):
            raise PeerRefused(answer.status, said["code"], str(said.get("error", ""))[:500])
        raise UpstreamFailed(f"{path} answered {answer.status}")
