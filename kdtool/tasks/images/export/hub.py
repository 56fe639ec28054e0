"""A student on the Hugging Face hub, as timm opens it: ``timm.create_model("hf-hub:OWNER/NAME", pretrained=True)``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from kdtool.errors import InputError, RunError

_REPO = re.compile(r"[\w.-]+/[\w.-]+")


def check_repo(repo: str) -> None:
    """Refuse a name that is no OWNER/NAME.

    Raises:
        InputError: so it is.
    """
    if not _REPO.fullmatch(repo):
        raise InputError(f"--push-to-hub {repo}: expected OWNER/NAME.")


def push(repo: str, student: Path, folder: Path, exports: Sequence[Path]) -> str:
    """Upload a student's folder and its exports, in one commit; make the repository where there is none.

    The token is the one that huggingface_hub finds (``hf auth login``, or HF_TOKEN), the hub that of HF_ENDPOINT.

    Args:
        repo: OWNER/NAME.
        student: the folder with ``config.json`` and ``model.safetensors``.
        folder: the one that exports lie in.
        exports: files there, and in folders there, that go beside the student's under the same names.

    Returns:
        The repository's address.

    Raises:
        RunError: the hub cannot be reached, or refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    files = {path.name: path for path in sorted(student.iterdir()) if path.is_file()}
    files |= {path.relative_to(folder).as_posix(): path for path in exports}
    try:
        api = HfApi()
        address = api.create_repo(repo, exist_ok=True)
        api.create_commit(
            repo,
            [CommitOperationAdd(name, str(path)) for name, path in files.items()],
            commit_message="Student distilled with kdtool",
        )
    except Exception as error:  # whatever the hub or the network answers
        line = (str(error).strip().splitlines() or [""])[0][:300]
        raise RunError(
            f"the hub did not take {repo} ({type(error).__name__}: {line}). Log in with `hf auth login`, or set "
            "HF_TOKEN; the exports are in place."
        ) from error
    return str(address)
