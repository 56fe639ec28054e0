"""Whether pretrained weights can be had: in the local cache, or from a hub that answers within seconds."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

SECONDS = 5.0
"""How long the hub may take to answer before it counts as out of reach."""

WEIGHT_FILES = (
    "model.safetensors",
    "pytorch_model.bin",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
)


def cached_file(repo: str, filename: str) -> Path | None:
    """Return a hub file's place in the local cache, None where it is not there."""
    from huggingface_hub import try_to_load_from_cache

    repo, _, revision = repo.partition("@")
    found = try_to_load_from_cache(repo, filename, revision=revision or None)
    return Path(found) if isinstance(found, str) else None


def cached_weights(cfg: Any) -> Path | None:
    """Return the cached weights of a timm ``PretrainedCfg``, None where there are none."""
    if cfg.hf_hub_id:
        names = [cfg.hf_hub_filename] if cfg.hf_hub_filename else list(WEIGHT_FILES)
        found = next((path for name in names if (path := cached_file(cfg.hf_hub_id, name))), None)
        if found is not None:
            return found
    if isinstance(cfg.url, str) and cfg.url:
        from torch.hub import get_dir

        path = Path(get_dir()) / "checkpoints" / cfg.url.rpartition("/")[2]
        return path if path.is_file() else None
    return None


def why_unreachable(cfg: Any) -> str | None:
    """Return why a timm ``PretrainedCfg``'s weights cannot be downloaded, None where they can; within seconds."""
    if cfg.hf_hub_id:
        return hub_unreachable(cfg.hf_hub_id, cfg.hf_hub_filename or WEIGHT_FILES[0])
    if isinstance(cfg.url, str) and cfg.url:
        return _within(SECONDS, lambda: _head(cfg.url))
    return "it has no pretrained weights"


def hub_unreachable(repo: str, filename: str) -> str | None:
    """Return why a hub's file cannot be downloaded, None where it can."""
    if _offline():
        return "HF_HUB_OFFLINE is set"
    return _within(SECONDS, lambda: _ask_hub(repo, filename))


def _offline() -> bool:
    from huggingface_hub import constants

    said = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    return said or bool(constants.HF_HUB_OFFLINE)


def _ask_hub(repo: str, filename: str) -> None:
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError

    repo, _, revision = repo.partition("@")
    try:
        get_hf_file_metadata(hf_hub_url(repo, filename, revision=revision or None), timeout=SECONDS - 1)
    except EntryNotFoundError:
        return  # the hub answers; timm looks for the weights under other names too


def _head(url: str) -> None:
    from urllib.request import Request, urlopen

    with urlopen(Request(url, method="HEAD"), timeout=SECONDS - 1):
        pass


def _within(seconds: float, ask: Callable[[], None]) -> str | None:
    """Return what went wrong when asking, or that there was no answer in time; a name server may hang for minutes."""
    answer: list[str | None] = []

    def run() -> None:
        try:
            ask()
            answer.append(None)
        except Exception as error:
            line = (str(error).strip().splitlines() or [""])[0][:160]
            answer.append(f"{type(error).__name__}: {line}" if line else type(error).__name__)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    return answer[0] if answer else f"no answer within {seconds:.0f} seconds"
