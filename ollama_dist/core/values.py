"""A dataclass for values that are made for every request."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dataclasses import dataclass as value
else:
    from dataclasses import dataclass

    def value(*, frozen: bool, slots: bool):
        """As `dataclasses.dataclass`, but only the type checker looks that nobody changes a frozen one.

        To have the interpreter look makes it four times as expensive to make: each field then goes through
        ``object.__setattr__``.
        """
        return dataclass(slots=slots, unsafe_hash=frozen)


__all__ = ["value"]
