"""The texts of every installation: the documentation inside Python itself. Python versions differ in them."""

from __future__ import annotations

from collections.abc import Mapping

from kdtool.errors import InputError


def topics() -> Mapping[str, str]:
    """Return Python's own documentation: the text of each topic.

    Raises:
        InputError: this Python came without it.
    """
    try:
        from pydoc_data.topics import topics as found
    except ImportError as error:
        raise InputError(
            "--data pydocs reads the documentation that comes with Python (module pydoc_data), which this Python "
            "lacks; name a file or a folder of texts."
        ) from error
    return found
