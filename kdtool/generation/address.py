"""Where a teacher is served, and the key that it wants; the key is never part of what is written or shown."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from urllib.parse import urlsplit

from kdtool.errors import InputError

VARIABLE = "KDTOOL_API_KEY"
"""The environment variable that holds a key, where no other is named."""


@dataclass(frozen=True)
class Address:
    """A server and a model.

    Attributes:
        url: up to and with "/v1".
        model: None: the only one that is served.
        local: it is on this machine, so that no proxy is asked.
    """

    url: str
    model: str | None
    local: bool

    @property
    def private(self) -> bool:
        """Whether nobody can read what is sent."""
        return self.local or self.url.startswith("https:")


def is_address(text: str) -> bool:
    """Tell whether a teacher is named by an address."""
    return text.lower().startswith(("http://", "https://"))


def parse(text: str) -> Address:
    """Return ``URL#MODEL`` in parts.

    Raises:
        InputError: it is no such address, or holds a password.
    """
    shape = "expected URL#MODEL, such as http://localhost:8000/v1#qwen3-32b"
    try:
        parts = urlsplit(text)
        host, secret = parts.hostname, parts.username is not None or parts.password is not None
        _ = parts.port  # it is a number
    except ValueError as error:
        raise InputError(f"--teacher {text}: {error}; {shape}.") from error
    if secret or parts.query:
        # What is wrong is not shown: it may be a key.
        raise InputError(
            f"--teacher: the address of {host} holds a user or a query. A key belongs into the environment variable "
            f"{VARIABLE}, or into one that --key-env names."
        )
    if not host or not text.isprintable() or " " in text:
        raise InputError(f"--teacher {text!r}: {shape}.")
    url = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
    return Address(url, parts.fragment or None, _is_loopback(host))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def key_for(address: Address, variable: str | None) -> str | None:
    """Return the key in an environment variable; None: no key is sent.

    Args:
        address: where it would be sent.
        variable: its name; None: ``VARIABLE``, which need not be there.

    Raises:
        InputError: it is not there, is no text that a header holds, or would be sent for all to read.
    """
    name = variable or VARIABLE
    key = os.environ.get(name, "").strip()
    if not key:
        if variable is not None:
            raise InputError(f"--key-env {variable}: there is no such environment variable, or it is empty.")
        return None
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise InputError(f"the key in {name} holds characters that no key has; set it anew.")
    if not address.private:
        raise InputError(
            f"the key in {name} would go to {address.url} unencrypted. Use https://, a tunnel to localhost, or leave "
            f"{name} unset."
        )
    return key
