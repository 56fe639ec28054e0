"""The most memory that a forward of an ONNX file holds at once, measured in a process of its own.

A runtime keeps its tensors to itself, so that only the process's growth tells. A process that has run before has memory
to spare, into which a forward fits without a trace: a new one has none.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

_CODE = """
import sys
import numpy, onnxruntime
from pathlib import Path

def kilobytes(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])

inputs = dict(numpy.load(sys.argv[2]))
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = int(sys.argv[3])
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
Path("/proc/self/clear_refs").write_text("5")  # sets the peak to the present
before = kilobytes("VmRSS")
session.run(None, inputs)
print(1024 * max(0, kilobytes("VmHWM") - before))
"""


def held_by(file: Path, inputs: Mapping[str, np.ndarray]) -> int | None:
    """Return by how many bytes a process's resident memory peaks in a first forward; None where Linux does not say.

    Args:
        file: an ONNX model.
        inputs: by name, what it takes.
    """
    with tempfile.TemporaryDirectory() as folder:
        given = Path(folder) / "inputs.npz"
        np.savez(given, **inputs)  # type: ignore[arg-type]
        arguments = [sys.executable, "-c", _CODE, str(file), str(given), str(torch.get_num_threads())]
        done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    said = done.stdout.split()
    return int(said[-1]) if done.returncode == 0 and said else None
