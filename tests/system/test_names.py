"""Names of files: each caller's as they have always been, for folders that are found again by name."""

from __future__ import annotations

import pytest

from kdtool.comparison.plan import short_name
from kdtool.runs.folder import _short
from kdtool.system.names import file_name


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("resnet50", "resnet50"),
        ("hf-hub:timm/resnet10t.c3_in1k", "hf-hub_timm_resnet10t.c3_in1k"),
        ("nets/my net.py:make", "nets_my_net.py_make"),
        ("é" * 70, "é" * 60),
        ("a/../b", "a_.._b"),
    ],
)
def test_kept_teachers_caches_and_links(name: str, wanted: str) -> None:
    assert file_name(name) == wanted


@pytest.mark.parametrize(
    ("model", "run", "cell"),
    [
        ("hf-hub:timm/res-net.c3", "res_net.c3", "res-net.c3"),
        ("nets/net.py:make", "make", "net.py_make"),
        ("local-dir:runs/a/student", "student", "student"),
        ("x/net.py", "net", "net"),
    ],
)
def test_runs_and_comparisons(model: str, run: str, cell: str) -> None:
    assert (_short(model), short_name(model)) == (run, cell)
