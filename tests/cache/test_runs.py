"""Replayed and live training are the same training."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from kdtool.cache.store import MANIFEST
from kdtool.tasks.images.data.views import Views
from kdtool.tasks.images.options import Data
from tests.cache.small import VIEWS, build, only, shards
from tests.running import TEACHER, Done, distil, start

MIXED = ("data.mixup=0.4", "data.cutmix=1.0", "data.flip=0.5", "--epochs", "3")
"""Epoch 3 replays view 0 again."""


def worst(done: Done, live: Done, epochs: slice = slice(None)) -> float:
    """Return the largest relative difference between two runs' losses."""
    pairs = zip(done.log()[epochs], live.log()[epochs], strict=True)
    return max(
        abs(a["train"][name] - value) / abs(value) for a, b in pairs for name, value in b["train"].items() if value
    )


@pytest.mark.parametrize(
    ("method", "extra"),
    [
        ("kd", MIXED),
        pytest.param(
            "rkd+kd",
            ("data.auto_augment=rand-m5", "data.erase=0.3", "teacher.image_size=40", "--epochs", "2"),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_replayed_losses_are_the_live_ones(tmp_path: Path, home: Path, method: str, extra: tuple[str, ...]) -> None:
    common = ("--method", method, *VIEWS, *extra)
    live = distil(tmp_path / "live", *common)
    exact = distil(tmp_path / "exact", *common, "--teacher-cache", "cache.dtype=fp32")
    assert "outputs replayed from" in exact.out
    assert "runs live" not in exact.out
    assert worst(exact, live) < 2e-6
    shutil.rmtree(home / "outputs")
    half = distil(tmp_path / "half", *common, "--teacher-cache")
    assert 0 < worst(half, live) < 3e-3


def test_a_stage_that_reads_maps_runs_live_and_the_next_replays(tmp_path: Path, home: Path) -> None:
    common = ("--method", "fitnets", *VIEWS, "--epochs", "2", "fitnets.hint_epochs=1")
    live = distil(tmp_path / "live", *common)
    done = distil(tmp_path / "replayed", *common, "--teacher-cache", "cache.dtype=fp32")
    assert "not kept, for they are maps or sequences: hint" in done.out
    assert "stage hint: the teacher runs live" in done.out
    assert done.out.count("runs live, for") == 1
    assert worst(done, live) < 2e-6
    # Where less is kept, the hint stage is the same and the other is not: it alone replays.
    less = distil(tmp_path / "less", *common, "--teacher-cache", "cache.dtype=fp32", "cache.top_k=1",
                   "cache.hot_top_k=true")  # fmt: skip
    assert worst(less, live, slice(0, 1)) < 2e-6
    assert worst(less, live, slice(1, 2)) > 1e-4


@pytest.mark.slow
def test_one_cache_serves_methods_and_seeds_and_grows_where_more_is_read(tmp_path: Path, home: Path) -> None:
    first = distil(tmp_path / "kd", "--method", "kd", *VIEWS, "--teacher-cache")
    assert "4 shards to compute" not in first.out
    assert "2 shards to compute" in first.out
    cache = only(home)
    before = shards(cache)
    for number, other in enumerate([("--seed", 5), ("--method", "dkd"), ("--student", "test_vit"), ("--batch-size", 16),
                                    ("data.mean=[0.1,0.2,0.3]",), ("--method", "none")]):  # fmt: skip
        done = distil(tmp_path / f"{number}", *VIEWS, "--teacher-cache", *other)
        assert "to compute" not in done.out
    assert shards(cache) == before
    more = distil(tmp_path / "rkd", "--method", "rkd", *VIEWS, "--teacher-cache")
    assert "2 shards to compute" in more.out  # the embedding
    wider = distil(tmp_path / "views", "--method", "kd", *VIEWS, "--teacher-cache", "data.views=3")
    assert "1 shards to compute" in wider.out
    assert only(home) == cache
    assert before.items() <= shards(cache).items()
    assert len(shards(cache)) == 5


@pytest.mark.slow
def test_without_a_fitting_cache_use_runs_live_and_require_stops_both_saying_what_differs(
    tmp_path: Path, home: Path
) -> None:
    common = (*VIEWS, "--method", "kd", "--teacher-weights", trained(home))
    bare = start(tmp_path / "bare", *common, "cache.mode=require")
    assert bare.code == 2
    assert "no kept outputs of teacher test_resnet fit: none is kept" in bare.err
    distil(tmp_path / "build", *common, "--teacher-cache")
    use = distil(tmp_path / "use", *common, "cache.mode=use")
    assert "outputs replayed from" in use.out
    live = distil(tmp_path / "live", *common, "cache.mode=use", "data.flip=0.25")
    assert "data.flip is 0.0, wanted 0.25. The teacher runs live." in live.out
    for change, words in [
        ("data.view_seed=7", "data.view_seed is 0, wanted 7"),
        ("data.crop=none", "data.crop is pad, wanted none"),
        ("data.color_jitter=0.1", "data.color_jitter is 0.0, wanted 0.1"),
        ("data.labels_per_class=7", "data.labels_per_class is 8, wanted 7"),
        ("data.exclude_classes=[3]", 'data.exclude_classes is [], wanted ["3"]'),
        ("data.image_size=24", "data.image_size is 32, wanted 24"),
        ("teacher.precision=bf16", "teacher.precision is fp32, wanted bf16"),
        ("teacher.image_size=48", "teacher.image_size is 32, wanted 48"),
        ("cache.dtype=fp32", "cache.dtype is fp16, wanted fp32"),
        ("cache.top_k=3", "cache.top_k is null, wanted 3"),
        ("data.views=3", "it holds 2 views of logits, wanted data.views=3"),
        ("method=rkd", "it does not hold embedding"),
    ]:
        done = start(tmp_path / "refused", *common, "cache.mode=require", "teacher.check=off", "cache.hot_top_k=true",
                     change)  # fmt: skip
        assert done.code == 2, (change, done.out)
        assert words in done.err, change
        assert not (tmp_path / "refused").exists()


def trained(home: Path) -> Path:
    """Return the weights of a teacher that was trained before, so that no other data is another teacher."""
    (home / "teachers").unlink()  # shared with other tests, whose teachers are of other classes
    build("method=kd")
    weights = next((home / "teachers").glob(f"{TEACHER}-*/model.safetensors"))
    shutil.rmtree(home / "outputs")
    return weights


def test_new_images_in_the_folder_of_unlabelled_ones_are_another_training_set(tmp_path: Path, home: Path) -> None:
    from PIL import Image

    extra = tmp_path / "extra"
    extra.mkdir()
    Image.new("RGB", (32, 32), "white").save(extra / "1.png")
    build(f"data.unlabelled={extra}")
    first = only(home)
    Image.new("RGB", (32, 32), "black").save(extra / "1.png")
    (extra / "1.png").touch()
    done = start(tmp_path / "refused", *VIEWS, f"data.unlabelled={extra}", "cache.mode=require")
    assert done.code == 2
    assert "data.unlabelled is" in done.err
    build(f"data.unlabelled={extra}")
    assert first.exists()


def test_damage_is_named_and_mended_by_the_next_run(tmp_path: Path, home: Path) -> None:
    build("method=kd", "cache.shard_rows=30")
    cache, before = only(home), shards(only(home))
    names = sorted(before)
    torn, flipped = cache / names[0], cache / names[4]
    torn.write_bytes(torn.read_bytes()[:100])
    content = bytearray(flipped.read_bytes())
    content[-3] ^= 4
    flipped.write_bytes(content)
    strict = start(tmp_path / "strict", *VIEWS, "--method", "kd", "cache.mode=require")
    assert strict.code == 2
    assert torn.name in strict.err
    assert flipped.name in strict.err
    done = distil(tmp_path / "mended", *VIEWS, "--method", "kd", "--teacher-cache")
    for path in (torn, flipped):
        assert f"{path.name} is damaged" in done.out
    assert "2 shards to compute" in done.out
    assert shards(cache) == before


@pytest.mark.slow
def test_an_edited_manifest_is_named_and_mended(tmp_path: Path, home: Path) -> None:
    build("method=kd")
    manifest = only(home) / MANIFEST
    plain = json.loads(manifest.read_text())
    plain["decides"]["teacher"]["precision"] = "bf16"
    manifest.write_text(json.dumps(plain))
    done = distil(tmp_path / "mended", *VIEWS, "--method", "kd", "--teacher-cache")
    assert "teacher.precision is bf16, wanted fp32" in done.out
    assert "to compute" not in done.out
    assert json.loads(manifest.read_text())["decides"]["teacher"]["precision"] == "fp32"


@pytest.mark.slow
def test_several_teachers_each_have_their_cache(tmp_path: Path, home: Path) -> None:
    teachers = ("--teacher", "test_resnet", "--teacher", "test_efficientnet", "--method", "kd")
    common = (*teachers, *VIEWS, "teacher.check=off")
    live = distil(tmp_path / "live", *common)
    done = distil(tmp_path / "replayed", *common, "--teacher-cache", "cache.dtype=fp32")
    assert len(list((home / "outputs").glob("*/manifest.json"))) == 2
    assert worst(done, live) < 2e-6


def test_peers_are_not_kept(tmp_path: Path, home: Path) -> None:
    done = distil(tmp_path / "run", "--method", "dml", *VIEWS, "--teacher-cache")
    assert "no outputs are kept or replayed: the peers learn" in done.out
    assert not (home / "outputs").exists()


def test_a_cache_needs_views_that_come_again(tmp_path: Path) -> None:
    done = start(tmp_path / "run", "--teacher-cache")
    assert done.code == 2
    assert "data.views=K" in done.err


def test_a_high_temperature_is_refused_where_only_the_largest_are_kept(tmp_path: Path, home: Path) -> None:
    done = start(tmp_path / "run", "--method", "kd", *VIEWS, "--teacher-cache", "cache.top_k=3")
    assert done.code == 2
    assert "kd.temperature=4" in done.err
    assert "cache.hot_top_k=true" in done.err


@pytest.mark.slow
def test_top_k_trains_close_to_the_live_run(tmp_path: Path) -> None:
    common = ("--method", "kd", *VIEWS, "kd.temperature=2")
    live = distil(tmp_path / "live", *common)
    assert (
        worst(distil(tmp_path / "most", *common, "--teacher-cache", "cache.top_k=9", "cache.dtype=fp32"), live) < 1e-5
    )
    few = distil(tmp_path / "few", *common, "--teacher-cache", "cache.top_k=2", "cache.dtype=fp32")
    assert 1e-5 < worst(few, live) < 0.5


def test_a_mean_decides_only_where_it_becomes_pixels() -> None:
    def decides(mean: float, **options: Any) -> dict[str, Any]:
        cfg = Data(crop="pad", **options)
        return Views(cfg, 32, (mean,) * 3, (1.0,) * 3, grey=False, native_size=(32, 32), train=True).decides

    assert decides(0.1) == decides(0.2)
    assert decides(0.1, erase=0.5) != decides(0.2, erase=0.5)
    assert decides(0.1, auto_augment="rand-m5") != decides(0.2, auto_augment="rand-m5")
