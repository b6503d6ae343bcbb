"""One tree of errors. A class says what happened; its fields say what a machine should do about it."""

from typing import ClassVar


class DistError(Exception):
    """Something a caller can be told about.

    ``status`` is the HTTP status of the answer, ``code`` its name for programs, ``retryable`` whether
    the same request may succeed elsewhere or later, ``retry_after_s`` when it is worth another try.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False
    retry_after_s: int | None = None


class BadRequest(DistError):
    """The caller's mistake: asking again cannot help."""

    status = 400
    code = "bad_request"


class Unauthorized(DistError):
    """No credential, or one we do not know."""

    status = 401
    code = "unauthorized"


class Forbidden(DistError):
    """Known or not, this caller may not do this."""

    status = 403
    code = "forbidden"


class TooManyAttempts(DistError):
    """Too many wrong credentials from one place; later is another matter."""

    status = 429
    code = "too_many_attempts"
    retryable = True
    retry_after_s = 5


class TooManyRequests(DistError):
    """One caller asks for more than its share; what it asked was not begun."""

    status = 429
    code = "too_many_requests"
    retryable = True

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class NotFound(DistError):
    """What was asked for does not exist here."""

    status = 404
    code = "not_found"


class ModelNotFound(NotFound):
    """No reachable node holds this model."""

    code = "model_not_found"


class NodeNotFound(NotFound):
    """No member has this name or id."""

    code = "node_not_found"


class StillThere(DistError):
    """What is to be removed is in use; nothing was changed."""

    status = 409
    code = "still_there"


class TooLarge(DistError):
    """The body is larger than the route allows."""

    status = 413
    code = "too_large"


class NoCandidate(DistError):
    """No healthy node can serve this model right now."""

    status = 503
    code = "no_candidate"
    retryable = True
    retry_after_s = 2


class Busy(DistError):
    """Every place that could serve this is full."""

    status = 503
    code = "busy"
    retryable = True
    retry_after_s = 1


class UpstreamFailed(DistError):
    """An engine or a peer did not answer, or broke its answer off; nothing was changed there."""

    status = 502
    code = "upstream_failed"
    retryable = True
    is_sent: bool = True
    """Whether the request may have got there; if not, even one that changes something may go elsewhere."""


class UpstreamRefused(UpstreamFailed):
    """Nobody took the request: the connection could not be made, or closed before any answer came."""

    code = "upstream_refused"


class UpstreamCut(UpstreamFailed):
    """The answer began and then broke off."""

    code = "upstream_cut"


class UpstreamTimeout(UpstreamFailed):
    """An engine or a peer took longer than a phase of a request may take."""

    status = 504
    code = "upstream_timeout"


class ConfigError(DistError):
    """A setting that cannot be used: names it, where it came from, and the nearest thing that would work."""

    code = "config"
