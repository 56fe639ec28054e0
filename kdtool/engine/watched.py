"""A dictionary that knows which of its entries were read: what a loss really needs of a teacher."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


class Watched(dict[str, Any]):
    """Notes the keys that are read one by one; reading all at once counts for all.

    Args:
        items: the content.
        read: takes the keys, each with ``prefix`` before it.
    """

    def __init__(self, items: Mapping[str, Any], read: set[str], prefix: str = ""):
        super().__init__(items)
        self.read, self.prefix = read, prefix

    def part(self, prefix: str) -> Watched:
        """Return the entries whose keys begin with ``prefix``, without it, watched likewise."""
        names = [key for key in self if key.startswith(prefix)]
        entries = {key.removeprefix(prefix): super(Watched, self).__getitem__(key) for key in names}
        return Watched(entries, self.read, self.prefix + prefix)

    def mapped(self, function: Callable[[Any], Any]) -> Watched:
        """Return the entries as a function makes them, watched likewise."""
        entries = {key: function(super(Watched, self).__getitem__(key)) for key in self}
        return Watched(entries, self.read, self.prefix)

    def _note(self, *keys: str) -> None:
        self.read.update(self.prefix + key for key in keys)

    def __getitem__(self, key: str) -> Any:
        self._note(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        if key in self:
            self._note(key)
        return super().get(key, default)

    def values(self) -> Any:
        self._note(*super().keys())
        return super().values()

    def items(self) -> Any:
        self._note(*super().keys())
        return super().items()
