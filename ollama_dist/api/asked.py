"""The bodies of our own routes, and what is said when one is not as it must be."""

from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ollama_dist.core.errors import BadRequest
from ollama_dist.core.modes import Mode


class Asked(BaseModel):
    """A JSON object with just these keys; a string is no boolean."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)


class Nothing(Asked):
    """Routes whose path says it all."""


class InviteRequest(Asked):
    lifetime_s: Annotated[float, Field(gt=0, le=600, strict=False, allow_inf_nan=False)] = 600.0
    """Seconds for which the code lets a machine in."""


class ModeChange(Asked):
    mode: Annotated[Mode, Field(strict=False)]


class FallbackChange(Asked):
    enabled: bool


class JoinRequest(Asked):
    code: Annotated[str, Field(min_length=1, max_length=1024)]
    """What `ollama-dist invite` printed."""
    replace: bool = False
    """Leave the cluster this node is in, with other members."""


class RotateRequest(Asked):
    overlap_s: Annotated[float, Field(ge=0, le=3600, strict=False, allow_inf_nan=False)] = 600.0
    """Seconds for which the old key is accepted after every living member has the new one."""


class NodeNamed(Asked):
    node: Annotated[str, Field(min_length=1, max_length=64)]
    """Its name or id."""


class MaybeNode(Asked):
    node: Annotated[str | None, Field(min_length=1, max_length=64)] = None
    """Its name or id; by default the one that is asked."""


class MigrateRequest(Asked):
    model: Annotated[str, Field(min_length=1, max_length=512)]
    to: Annotated[str | None, Field(min_length=1, max_length=64)] = None
    """The node that gets it, by name or id. Without one it only leaves the node in `from`."""
    source: Annotated[str | None, Field(alias="from", min_length=1, max_length=64)] = None
    """The node it moves away from; needed where several have it."""
    keep_source: bool = False
    """Leave the copy there: copy it, not move it."""
    load: bool = True
    """What was in memory where it moves away from comes into memory first where it goes."""
    force: bool = False
    """Without `to`: also the last copy there is."""
    dry_run: bool = False
    """Only say what would be done."""


class RebalanceRequest(Asked):
    models: Annotated[list[Annotated[str, Field(min_length=1, max_length=512)]], Field(max_length=1000)] = []
    """Only these; none: all."""
    dry_run: bool = False
    """Only say what would be done."""


class PolicyRequest(Asked):
    min: Annotated[int, Field(ge=0, le=1024)] = 1
    """Copies there are to be at least."""
    max: Annotated[int | None, Field(ge=1, le=1024)] = None
    """And at most; null: as many as there are."""
    pinned: Annotated[list[Annotated[str, Field(min_length=1, max_length=64)]], Field(max_length=64)] = []
    """Nodes, by name or id, that get a copy and keep it."""


_Body = TypeVar("_Body", bound=Asked)


def read_asked(shape: type[_Body], document: object) -> _Body:
    """``document`` as ``shape``; raises `BadRequest`, which names what is wrong first."""
    try:
        return shape.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise BadRequest(_sentence(shape, first["type"], first["loc"], first["msg"])) from error


def _sentence(shape: type[Asked], kind: str, place: tuple[int | str, ...], message: str) -> str:
    name = ".".join(map(str, place))
    match kind:
        case "missing":
            return f'"{name}" is missing'
        case "extra_forbidden":
            known = ", ".join(f'"{field.alias or name}"' for name, field in shape.model_fields.items())
            return f'"{name}" is not known here' + (f"; known: {known}" if known else "")
    return f'"{name}": {message[:1].lower()}{message[1:]}' if name else "the body must be a JSON object"
