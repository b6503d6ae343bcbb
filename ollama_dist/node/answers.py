"""One attempt at one place: from sending the request to an answer that has honestly begun, and its end.

Nothing of an answer reaches the caller before it has begun well, so until then failing is invisible and the
dispatcher may try elsewhere. After that, an answer ends as success only if the dialect's own end was seen.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from ollama_dist.backends.http1 import Connection, Head, Header, OnInterim, Sink
from ollama_dist.backends.target import Target
from ollama_dist.core.dialects import FORMS
from ollama_dist.core.errors import DistError, UpstreamCut, UpstreamFailed, UpstreamRefused, UpstreamTimeout
from ollama_dist.core.outcomes import NO_USAGE, OK, Result, Usage
from ollama_dist.core.requests import InferenceRequest
from ollama_dist.node.limits import first_byte_s, silence_s
from ollama_dist.wire.ends import End, EndWatch, Verdict, usage_of_whole
from ollama_dist.wire.failures import classify, early_error, error_text
from ollama_dist.wire.places import HEADER
from ollama_dist.wire.relay_headers import QUEUE, REFUSAL

WHOLE_LIMIT: Final = 8 * 2**20
"""An answer that is not streamed is held back until it is whole, if it is not longer than this (bytes)."""

FIRST_RECORD_LIMIT: Final = 64 * 1024
"""A stream is held back until its first line or event is whole, if it is not longer than this (bytes)."""

REFUSAL_LIMIT: Final = 2**20
"""An error's body is read so far (bytes); what is longer is no explanation."""

PASSED_ON: Final = {"content-type": "Content-Type", "cache-control": "Cache-Control", QUEUE: HEADER}
"""Headers of an engine's or a peer's answer that mean something to a caller, as they are written."""

_ENDS: Final = {
    End.GAVE_OUT: "the model repeated itself and the engine ended the answer",
    End.CUT: "the engine ended the answer before it was finished",
}


class AttemptFailed(DistError):
    """This place gave no answer; nothing of one was relayed.

    ``said`` is what it said instead, for the caller to read if no other place does better.
    """

    status = 502

    def __init__(self, result: Result, detail: str, said: "Answer | None" = None) -> None:
        super().__init__(detail)
        self.result = result
        self.said = said


class BrokenOff(UpstreamCut):
    """An answer that had begun ended otherwise than well.

    ``is_told`` is whether the engine's own words about it are among the bytes that were relayed,
    ``is_mid_record`` whether those bytes stop inside a line or an event, and ``lacks_only_a_line_end``
    whether to end that one would make them look whole: then nothing may follow them.
    """

    def __init__(
        self,
        result: Result,
        message: str,
        *,
        is_told: bool = False,
        is_mid_record: bool = False,
        lacks_only_a_line_end: bool = False,
    ) -> None:
        super().__init__(message)
        self.result = result
        self.is_told = is_told
        self.is_mid_record = is_mid_record
        self.lacks_only_a_line_end = lacks_only_a_line_end


class Answer:
    """An answer that has begun: its head and first bytes are here.

    Read on with `more` until it returns ``b""``, with `pour` in between where that is of use, and `close` it
    in any case.
    """

    __slots__ = ("_copy", "_rest", "_room", "first", "headers", "is_whole", "result", "status", "usage")

    def __init__(
        self, head: Head, first: bytes, *, rest: "_Rest | None" = None, usage: Usage = NO_USAGE
    ) -> None:
        self.status = status = head.status
        worked_out = head.worked_out
        self.headers = (worked_out and worked_out.get(_PASSED)) or _passed_on(head)
        self.first = first
        """The whole body where `is_whole`, else its beginning (never empty)."""
        self.result = OK if status < 400 else Result.REJECTED
        """How it stands; reading on may find that it broke off."""
        self.usage = usage
        """What the engine said of tokens and times; known once the answer is over."""
        self._rest = rest
        self.is_whole = rest is None
        self._copy: list[bytes] | None = None
        self._room = 0

    @property
    def is_over(self) -> bool:
        """Whether all there is has been read; how it ended `more` tells at once."""
        return self._rest is None or self._rest.is_over

    async def more(self) -> bytes:
        """The next bytes; ``b""`` at an honest end. Raises `BrokenOff` at any other."""
        if self._rest is None:
            return b""
        try:
            data = await self._rest.more()
        except BrokenOff as broken:
            self.result = broken.result
            raise
        if not data:
            self.usage = self._rest.verdict.usage
        else:
            self._remember(data)
        return data

    def pour(self, sink: Sink) -> Awaitable[None]:
        """Let what is to come run into ``sink``, as far as it takes it; how it goes on `more` tells.

        Not for an answer that `is_whole`.
        """
        assert self._rest is not None
        return self._rest.pour(sink, None if self._copy is None else self._remember)

    def keep_copy(self, limit: int) -> None:
        """Remember what is read, unless it becomes more than ``limit`` bytes."""
        self._room = limit - len(self.first)
        self._copy = [self.first] if self._room >= 0 else None

    def _remember(self, data: bytes) -> None:
        if self._copy is not None:
            self._room -= len(data)
            self._copy.append(data)
            if self._room < 0:
                self._copy = None

    @property
    def copy(self) -> bytes | None:
        """All that was read since `keep_copy`."""
        return None if self._copy is None else b"".join(self._copy)

    def close(self) -> None:
        """Let go of the connection: kept if the answer was read to its end, else closed at once."""
        if self._rest is not None:
            self._rest.close()


_PASSED: Final = object()


def _passed_on(head: Head) -> tuple[Header, ...]:
    """What of its headers means something to a caller."""
    headers = tuple((PASSED_ON[name], value) for name, value in head.headers if name in PASSED_ON)
    if head.worked_out is not None:
        head.worked_out[_PASSED] = headers
    return headers


class _Rest:
    """The part of an answer that is still to come."""

    def __init__(self, target: Target, connection: Connection, watch: EndWatch, silence: float) -> None:
        self._target = target
        self._connection = connection
        self._watch = watch
        self._silence = silence
        self._loop = asyncio.get_running_loop()
        self.verdict = Verdict(End.CUT)

    @property
    def is_over(self) -> bool:
        return self._connection.is_read

    async def more(self) -> bytes:
        try:
            data = await self._connection.read(self._loop.time() + self._silence)
        except UpstreamFailed as failure:
            self.verdict = self._last_words(failure)
            return b""
        if data:
            self._watch.feed(data)
        else:
            self.verdict = ended_well(self._watch)
        return data

    def pour(self, sink: Sink, remember: Callable[[bytes], None] | None) -> Awaitable[None]:
        feed = self._watch.feed

        def feed_both(data: bytes) -> None:
            feed(data)
            if remember is not None:
                remember(data)

        return self._connection.pour(sink, feed if remember is None else feed_both, self._silence)

    def close(self) -> None:
        self._target.give_back(self._connection)

    def _last_words(self, failure: UpstreamFailed) -> Verdict:
        """The connection failed: no matter if the answer was over by then, else raises `BrokenOff`."""
        verdict = self._watch.finish(clean=False)
        if verdict.end is End.COMPLETE:
            return verdict
        if verdict.end is End.ERROR:
            raise BrokenOff(verdict.result, verdict.message, is_told=True) from failure
        result = Result.TIMEOUT if isinstance(failure, UpstreamTimeout) else Result.CUT
        raise _broken_off(self._watch, result, str(failure)) from failure


def ended_well(watch: EndWatch) -> Verdict:
    """The transport says the answer is over: raises `BrokenOff` unless the dialect says so too."""
    verdict = watch.finish(clean=True)
    if verdict.end is not End.COMPLETE:
        message = verdict.message or _ENDS.get(verdict.end, "the engine failed")
        raise _broken_off(watch, verdict.result, message, is_told=verdict.end is End.ERROR)
    return verdict


def _broken_off(watch: EndWatch, result: Result, message: str, *, is_told: bool = False) -> BrokenOff:
    return BrokenOff(
        result,
        message,
        is_told=is_told,
        is_mid_record=watch.is_mid_record,
        lacks_only_a_line_end=watch.lacks_only_a_line_end,
    )


async def begin(
    target: Target,
    request: InferenceRequest,
    headers: Sequence[Header],
    body: bytes,
    *,
    patience_s: float = 0.0,
    on_interim: OnInterim | None = None,
) -> Answer:
    """Send the request to ``target`` and wait until an answer has begun. Raises `AttemptFailed`.

    ``patience_s`` is for what comes before an engine there begins, ``on_interim`` hears of it meanwhile.
    """
    limit = first_byte_s(request) + patience_s
    try:
        connection, head = await target.open(
            "POST", request.route, headers, body, head_timeout=limit, on_interim=on_interim
        )
        try:
            part = connection.rest() if head.status == 200 else None
            if part is not None and (answer := _whole(target, connection, head, request, part)) is not None:
                return answer
            deadline = asyncio.get_running_loop().time() + limit
            if head.status == 200:
                return await _begun(target, connection, head, request, deadline, part)
            return await _said_no(target, connection, head, request, deadline)
        except BaseException:
            target.drop(connection)
            raise
    except UpstreamTimeout as error:
        raise AttemptFailed(Result.TIMEOUT, str(error)) from error
    except UpstreamRefused as error:
        raise AttemptFailed(Result.REFUSED, str(error)) from error
    except BrokenOff as error:
        result = Result.FAILED if error.result is Result.CUT else error.result
        raise AttemptFailed(result, str(error)) from error
    except UpstreamFailed as error:
        raise AttemptFailed(Result.FAILED, str(error)) from error


def _whole(
    target: Target, connection: Connection, head: Head, request: InferenceRequest, body: bytes
) -> Answer | None:
    """An answer of which all is here, as of most that are not streamed; None where it is to be watched."""
    usage = None if request.stream else usage_of_whole(request.dialect, body)
    if usage is None:
        return None
    target.give_back(connection)
    return Answer(head, body, usage=usage)


async def _begun(
    target: Target,
    connection: Connection,
    head: Head,
    request: InferenceRequest,
    deadline: float,
    part: bytes | None,
) -> Answer:
    """An answer of which enough is here: the first record of a stream, else all of it (within bounds).

    ``part`` is what has come of it, where all has.
    """
    if part is None:
        part = await connection.read(deadline)
        whole = _whole(target, connection, head, request, part) if connection.is_read else None
        if whole is not None:
            return whole
    watch = EndWatch(request.dialect, stream=request.stream, is_text=_is_text(request, head))
    limit = FIRST_RECORD_LIMIT if request.stream else WHOLE_LIMIT
    parts: list[bytes] = []
    size = 0
    while True:
        parts.append(part)
        watch.feed(part)
        size += len(part)
        if not part or not watch.is_mid_record or size > limit:
            break
        part = await connection.read(deadline)
    first = b"".join(parts)
    if not part:
        verdict = ended_well(watch)
        target.give_back(connection)
        return Answer(head, first, usage=verdict.usage)
    if complaint := early_error(first):
        result = classify(500, first, request.route)
        if result is not Result.REJECTED:
            raise AttemptFailed(result, complaint)
    return Answer(head, first, rest=_Rest(target, connection, watch, silence_s(request)))


def _is_text(request: InferenceRequest, head: Head) -> bool:
    """Whether a bare text is coming that the caller asked for, and that cannot end unnoticed.

    An engine that fails before its end has not come to say that it is one.
    """
    if request.route not in FORMS or not (head.get("content-type") or "").startswith("text/plain"):
        return False
    return head.get("content-length") is not None or head.get("transfer-encoding") is not None


async def _said_no(
    target: Target, connection: Connection, head: Head, request: InferenceRequest, deadline: float
) -> Answer:
    """An answer that finds fault with the request; raises `AttemptFailed` when the fault is the place's."""
    parts: list[bytes] = []
    while (part := await connection.read(deadline)) and sum(map(len, parts)) < REFUSAL_LIMIT:
        parts.append(part)
    body = b"".join(parts)
    target.give_back(connection)
    said = Answer(head, body)
    refusal = head.get(REFUSAL)
    result = Result(refusal) if refusal in set(Result) else classify(head.status, body, request.route)
    if result is Result.REJECTED:
        return said
    if head.status < 400:  # neither an answer nor a refusal
        raise AttemptFailed(Result.FAILED, f"the engine answered with status {head.status}")
    raise AttemptFailed(result, error_text(body)[:200], said)
