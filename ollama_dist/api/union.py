"""What all nodes have, as one Ollama would list it. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from ollama_dist.core.names import ModelKey, parse_model_name
from ollama_dist.core.view import ClusterView

Row = Mapping[str, Any]

_LONG_AGO = datetime.min.replace(tzinfo=UTC)


def conflicts(view: ClusterView) -> frozenset[ModelKey]:
    """Names under which nodes hold different content."""
    return frozenset(key for key in view.holders if view.is_in_conflict(key))


def tags(view: ClusterView) -> list[Row]:
    """The rows of ``/api/tags``: one per name, untouched, newest first."""
    rows = [view.content(key, holders).row for key in view.holders if (holders := view.serving_holders(key))]
    return sorted(rows, key=lambda row: _time(row.get("modified_at")), reverse=True)


def ps(rows_by_node: Iterable[tuple[str, Sequence[Row]]]) -> list[Row]:
    """The rows of ``/api/ps``: every running model of every node, longest remaining life first."""
    rows = [{**row, "node": node} for node, running in rows_by_node for row in running]
    return sorted(rows, key=lambda row: _time(row.get("expires_at")), reverse=True)


def v1_models(rows: Iterable[Row]) -> dict[str, Any]:
    """The body of ``/v1/models`` for the rows of ``/api/tags``; ``data`` is null when there are none."""
    data = [
        {
            "id": row["name"],
            "object": "model",
            "created": int(_time(row.get("modified_at")).timestamp()),
            "owned_by": parse_model_name(row["name"]).namespace,
        }
        for row in rows
    ]
    return {"object": "list", "data": data or None}


def _time(text: object) -> datetime:
    """An RFC 3339 time, nanoseconds cut to microseconds; long ago where there is none."""
    try:
        when = datetime.fromisoformat(str(text))
    except ValueError:
        return _LONG_AGO
    return when if when.tzinfo else when.replace(tzinfo=UTC)
