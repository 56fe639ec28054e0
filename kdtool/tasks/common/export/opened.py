"""Exported files, opened: ONNX by onnxruntime, torch.export programs; nothing in them is unpickled."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from kdtool.errors import InputError

SUFFIXES = (".onnx", ".pt2")

EXTRA_FILE = "kdtool.json"
"""Where a program keeps its metadata."""

_PLAIN_PARTS = ("data/weights/", "data/constants/", "data/sample_inputs/", "models/", "extra/", ".data/")
_PLAIN_FILES = ("archive_format", "archive_version", "byteorder", "version")


def onnx_session(path: Path) -> Any:
    """Return an onnxruntime session on the CPU, with as many threads as torch has.

    Raises:
        InputError: onnxruntime is missing, or the file is no ONNX model that it can run.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError("ONNX files need onnxruntime: pip install 'kdtool[export]'.") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises classes of its own, which share no base
        line = (str(error).strip().splitlines() or [""])[0][:200]
        raise InputError(f"{str(path)!r} is no ONNX model that onnxruntime can run: {line}") from error


def program_module(path: Path) -> tuple[Any, dict[str, str]]:
    """Return what runs a program, and its metadata: texts by key.

    Raises:
        InputError: it is no program, or one that torch would unpickle.
    """
    _refuse_pickles(path)
    extra = {EXTRA_FILE: ""}
    try:
        program = torch.export.load(path, extra_files=extra)
    except Exception as error:  # whatever torch's reader raises on a damaged file
        line = (str(error).strip().splitlines() or [""])[0][:200]
        raise InputError(f"{str(path)!r} is no program of torch.export: {line}") from error
    said: dict[str, str] = json.loads(extra[EXTRA_FILE] or "{}")
    try:
        return program.module(check_guards=False), said  # guards are code in the file
    except TypeError:  # a torch before them
        return program.module(), said


def _refuse_pickles(path: Path) -> None:
    """Refuse an archive with anything but tensors, graphs and texts: torch would unpickle or load it.

    Raises:
        InputError: it holds pickled objects or compiled code, or is no archive.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.partition("/")[2] for name in archive.namelist()]
            configs = [json.loads(archive.read(n)) for n in archive.namelist() if n.endswith("_config.json")]
            for name in archive.namelist():
                if "/data/sample_inputs/" in name:
                    torch.load(io.BytesIO(archive.read(name)), weights_only=True)
    except (zipfile.BadZipFile, pickle.UnpicklingError, ValueError, RuntimeError, OSError) as error:
        raise InputError(f"{str(path)!r} is no program of torch.export: {error}") from error
    foreign = [name for name in names if not name.startswith(_PLAIN_PARTS) and name not in _PLAIN_FILES]
    entries = [entry for config in configs for entry in config.get("config", {}).values()]
    pickled = [e for e in entries if e.get("use_pickle") or not str(e["path_name"]).startswith(("weight_", "tensor_"))]
    if foreign or pickled:
        what = foreign[0] if foreign else pickled[0]["path_name"]
        raise InputError(f"{str(path)!r} is refused: {what!r} in it could run code. kdtool export writes none such.")
