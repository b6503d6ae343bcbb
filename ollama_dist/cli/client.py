"""Talking to the running node: finding it, asking it, and saying plainly what went wrong."""

import json
import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ollama_dist.cli.exchange import NO_HEADERS, Answer, BadAnswer, ask, ask_lines
from ollama_dist.cli.failures import Exit, Failure
from ollama_dist.node.config import Settings
from ollama_dist.node.paths import StatePaths, is_in_use
from ollama_dist.node.runtime_file import Runtime, read_runtime
from ollama_dist.node.secret_files import find_admin_token
from ollama_dist.node.setting import Source
from ollama_dist.node.setting_values import Address, Secret

PATIENCE_S: Final = 3.0
"""A node on this machine answers in milliseconds; one that does not within this time is stuck."""


SILENCE_S: Final = 24 * 3600.0
"""Between two lines of an answer that comes as work goes on: verifying a large model takes its time."""


class NotRunning(Failure):
    """No node answers where it was looked for."""

    def __init__(self, what: str, *, why: str = "", do: str = "ollama-dist serve") -> None:
        super().__init__(what, why=why, do=do, exit_code=Exit.NOT_RUNNING)


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """Where the node is looked for, and what its state folder tells of it."""

    address: Address
    runtime: Runtime | None
    in_use: bool
    """A node holds the state folder right now."""
    token: Secret | None
    """Only where it is certain to reach the node it belongs to, or the person named both."""


def locate(settings: Settings) -> Whereabouts:
    """Where the node should be: the address that was set, else the one it wrote down, else the usual one."""
    paths = StatePaths(settings.node.state_dir)
    runtime, in_use = read_runtime(paths.runtime), is_in_use(paths)
    listen = settings.node.listen
    is_set = settings.origin("listen").source is not Source.DEFAULT and not listen.search
    address = listen.reachable if is_set or runtime is None else runtime.address
    is_ours = in_use and runtime is not None and runtime.address == address
    token = find_admin_token(settings) if is_ours or settings.admin.admin_token else None
    return Whereabouts(address, runtime, in_use, token)


class NodeClient:
    """Asks one node."""

    def __init__(self, where: Whereabouts, patience_s: float = PATIENCE_S) -> None:
        self._where = where
        self._patience_s = patience_s

    def get(self, path: str) -> Any:
        """The JSON the node answers. Raises `Failure`; `NotRunning` when nobody or somebody else answers."""
        return self._ask("GET", path, None)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """As `get`; without an operators' token nothing is sent and `Failure` says so."""
        return self.send("POST", path, body)

    def send(self, method: str, path: str, body: dict[str, Any]) -> Any:
        """As `post`, with another method."""
        self._need_token()
        return self._ask(method, path, json.dumps(body).encode())

    def lines(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        headers: Mapping[str, str] = NO_HEADERS,
    ) -> Iterator[Any]:
        """The JSON of each line as it comes; the first may take as long as it likes to come.

        Raises as `get`, and `Failure` for a line that tells of an error.
        """
        data = None if body is None else json.dumps(body).encode()
        try:
            for line in ask_lines(
                self._where.address,
                method,
                path,
                patience_s=SILENCE_S,
                body=data,
                bearer=self._bearer(),
                headers=headers,
            ):
                if line.status != 200:
                    _read(self._where.address, line)
                if line.content.strip():
                    yield _record(line.content)
        except ConnectionRefusedError as error:
            raise self._absent() from error
        except (OSError, BadAnswer) as error:
            raise self._silent(error) from error

    def _need_token(self) -> None:
        if self._where.token is None and self._where.in_use:
            raise Failure(
                "there is no admin token to show to the node",
                why="it is in a file of the user who started the node",
                do="run this as that user, or set OLLAMA_ADMIN_TOKEN",
                exit_code=Exit.NOT_ALLOWED,
            )

    def _bearer(self) -> str | None:
        token = self._where.token
        return token.reveal() if token else os.environ.get("OLLAMA_API_KEY")

    def _ask(self, method: str, path: str, body: bytes | None) -> Any:
        try:
            answer = ask(
                self._where.address,
                method,
                path,
                patience_s=self._patience_s,
                body=body,
                bearer=self._bearer(),
            )
        except ConnectionRefusedError as error:
            raise self._absent() from error
        except (OSError, BadAnswer) as error:
            raise self._silent(error) from error
        return _read(self._where.address, answer)

    def _absent(self) -> Failure:
        if self._where.in_use:
            return Failure(
                f"the node does not listen at {self._where.address}",
                why="a node uses the state folder, so it is starting, stopping, or listens elsewhere",
                do="wait a moment, or name its address with --listen",
            )
        return NotRunning(f"no node is running at {self._where.address}")

    def _silent(self, error: Exception) -> Failure:
        if isinstance(error, socket.gaierror):
            return NotRunning(
                f"{self._where.address.host} is not a known host", do="ollama-dist status --listen HOST:PORT"
            )
        late = isinstance(error, TimeoutError)
        why = f"no answer within {self._patience_s:g} s" if late else f"{type(error).__name__}: {error}"
        return Failure(f"{self._where.address} did not answer properly", why=why, do="ollama-dist doctor")


def _record(line: bytes) -> Any:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise BadAnswer("a line that is no JSON") from error
    if isinstance(record, dict) and "error" in record:
        raise Failure(str(record["error"]))
    return record


def _read(address: Address, received: Answer) -> Any:
    status, content = received.status, received.content
    if 200 <= status < 300 and not content:
        return {}
    try:
        answer = json.loads(content)
    except ValueError:
        answer = None
    if 200 <= status < 300 and isinstance(answer, dict):
        return answer
    if answer is None and content.strip() == b"404 page not found":
        raise NotRunning(
            f"an Ollama answers at {address}, but no node", why="it knows nothing of /api/distributed"
        )
    said = answer.get("error") if isinstance(answer, dict) else None
    if status in (401, 403):
        raise Failure(
            "the node did not allow this",
            why=str(said or "it wants another admin token"),
            do="set OLLAMA_ADMIN_TOKEN to the token of that node"
            if status == 401
            else "set OLLAMA_API_KEY to a key of that node (ollama-dist key add NAME, there)",
            exit_code=Exit.NOT_ALLOWED,
        )
    if said is None:
        raise NotRunning(
            f"what answers at {address} is not a node", why=f"it answered {status} to our question"
        )
    raise Failure(str(said), why=f"the node answered {status}")
