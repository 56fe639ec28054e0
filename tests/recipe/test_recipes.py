"""The recipes that ship: each loads, says what its name says, opens with its command, and runs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import kdtool
from kdtool.recipe import load as recipes
from kdtool.recipe import yaml_file as recipe_file
from kdtool.runs.setting import build_setting
from tests.engine.test_schedule import rates, runs_of
from tests.running import call, distil, write_images
from tests.sampling import every
from tests.tasks.language.small import chats
from tests.tasks.text.runs import sentences

SHIPPED = recipe_file.shipped_names()
PAIRS = [name for name in SHIPPED if "_from_" in name]
BASES = {str(Path(name).parent / "hinton2015.yaml") for name in SHIPPED if name.startswith("mnist/")}
BASES |= {"cifar100/tian2020.yaml", "cifar100/five_stages.yaml", "sst2/tang2019.yaml", "taught/student_17m.yaml"}
CALLED = {
    "transformer_2": "transformer-tiny", "minilm": "models/all-minilm-l6-v2", "llama_4x256": "llama-tiny",
    "smollm2": "models/SmolLM2-135M-Instruct.Q4_1.gguf",
}  # fmt: skip
"""Models by what files' names call them, where that is another word."""
COMMANDED = [name for name in SHIPPED if name not in BASES]


def own(name: str) -> dict[str, Any]:
    """Return what the file itself says, without its base."""
    found: dict[str, Any] = yaml.safe_load(recipe_file.find(name).read_text(encoding="utf-8"))
    return found


def flat(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in data.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


def test_recipes_are_shipped() -> None:
    assert {name.split("/")[0] for name in SHIPPED} == {
        "cifar100",
        "digits",
        "language",
        "mnist",
        "photos",
        "sst2",
        "taught",
    }
    assert "digits/mobilenetv3_from_resnet50_kd.yaml" in SHIPPED
    assert sum(name.startswith("cifar100/") for name in PAIRS) == 13


@pytest.mark.parametrize("name", COMMANDED)
def test_it_opens_with_its_command(name: str) -> None:
    first = recipe_file.find(name).read_text(encoding="utf-8").splitlines()[0]
    command = re.fullmatch(rf"# kdtool run {re.escape(name)}( --method \w+| --data photos| --teacher-cache)?", first)
    assert command, first


@pytest.mark.parametrize("name", PAIRS)
def test_its_name_is_what_it_says(name: str) -> None:
    recipe = recipes.load(name)
    said = re.fullmatch(r".+/(.+?)_from_(.+?)(?:_(kd|fitnets|logits))?\.yaml", name)
    assert said is not None
    student, teacher, method = said.groups()
    assert recipe.method == (method or "kd")
    student, teacher = (CALLED.get(name, name) for name in (student, teacher))
    assert recipe.student.model == student
    assert recipe.teacher[0].model in (teacher, f"local-dir:runs/mnist/{teacher}/student")


@pytest.mark.parametrize("name", SHIPPED)
def test_it_says_nothing_twice(name: str) -> None:
    """It holds what differs from its base or the defaults, and the pair and the data that it is about."""
    said = flat(own(name))
    before = flat(recipes.to_dict(recipes.from_dict({"method": said.get("method", "kd")})))
    if "base" in said:
        base = Path(recipe_file.find(name)).parent / str(said["base"])
        before = flat(recipes.to_dict(recipes.load(base, [f"method={said.get('method', 'kd')}"])))
        before |= flat({key: value for key, value in recipe_file.read(base).items() if key not in ("data", "train")})
    aside = (".model", "method", "data.name", "teacher", "student")
    assert [key for key, value in said.items() if not key.endswith(aside) and before.get(key) == value] == []


@pytest.mark.parametrize("form", ["{}", "recipes/{}"])
def test_it_is_found_from_anywhere(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert recipe_file.find(form.format(SHIPPED[0])).is_file()
    assert recipe_file.find(SHIPPED[0].removesuffix(".yaml")).is_file()


# --- Tian et al., CIFAR-100 -------------------------------------------------------------------------------------------

METHODS = [
    "none", "kd", "fitnets", "at", "sp", "cckd", "vid", "rkd", "pkt", "ab", "ft", "fsp", "nst", "crd", "dkd", "dist"
]  # fmt: skip
ON_TOP = {"ab": 30, "fsp": 30}
"""Epochs of a first stage that trains the student on top of the 240."""


@pytest.fixture(scope="module")
def cifar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    classes = {f"class {number:02}": 3 for number in range(100)}
    folder = tmp_path_factory.mktemp("cifar100")
    for split in ("train", "test"):
        write_images(folder / split, classes, (24, 24))
    return folder


@pytest.mark.parametrize("name", [name for name in PAIRS if name.startswith("cifar100/")])
def test_cifar_recipes_have_the_papers_schedule(name: str) -> None:
    recipe = recipes.load(name)
    for optim, schedule, epochs, batch in (
        (recipe.optim, recipe.schedule, recipe.train.epochs, recipe.train.batch_size),
        (t := recipe.teacher[0].train) and (t.optim, t.schedule, t.epochs, t.batch_size),
    ):
        lr = 0.01 if optim is recipe.optim and recipe.student.model.startswith(("mobile", "shuffle")) else 0.05
        assert (optim.name, optim.lr, optim.weight_decay, optim.momentum) == ("momentum", lr, 0.0005, 0.9)
        assert optim.decay_norm_and_bias
        assert (schedule.name, schedule.milestones, schedule.decay_rate) == ("multistep", [150, 180, 210], 0.1)
        assert (schedule.warmup_epochs, epochs, batch) == (0, 240, 64)
    assert recipe.train.select == "last"


@pytest.mark.parametrize("method", every(8, METHODS))
def test_every_method_fits_the_cifar_pairs(method: str, cifar: Path) -> None:
    name = "cifar100/vgg8_from_vgg13_cifar.yaml" if method in ("at", "ab") else "cifar100/resnet20_from_resnet56.yaml"
    flags = {"method": method, "data.name": str(cifar)}
    dry = kdtool.run(recipes.load(name, flags=flags), dry_run=True).to_dict()
    assert dry["classes"] == 100
    assert dry["image_size"] == 32
    student = sum(stage["epochs"] for stage in dry["stages"] if "student" in stage["trains"])
    assert student == 240 + ON_TOP.get(method, 0)


def test_the_papers_layers_are_compared() -> None:
    """Stages 1 to 3 of a residual network, 1 to 4 of a VGG; stage 0 is the stem."""
    from kdtool.tasks.common.hooked import stage_index

    pairs = [
        ("resnet20_from_resnet56", 4, [1, 2, 3]),
        ("shufflenet_v1_from_wrn_40_2", 4, [1, 2, 3]),
        ("vgg8_from_vgg13_cifar", 5, [1, 2, 3, 4]),
        ("mobilenetv2_050_cifar_from_resnet50_cifar", 5, [1, 2, 3, 4]),
    ]
    for name, count, wanted in pairs:
        for method in ("at", "vid", "nst", "ab"):
            layers = recipes.load(f"cifar100/{name}.yaml", flags={"method": method}).options[method].layers
            assert [stage_index(layer, count) for layer in layers] == wanted
        hint = recipes.load(f"cifar100/{name}.yaml", flags={"method": "fitnets"}).options["fitnets"]
        assert stage_index(hint.hint, count) == stage_index(hint.guided, count) == 2


def test_the_weights_are_those_of_the_papers_code() -> None:
    def options(method: str) -> Any:
        return recipes.load("cifar100/resnet8x4_from_resnet32x4.yaml", flags={"method": method}).options[method]

    weights = {
        method: options(method).weight for method in ("at", "sp", "cckd", "vid", "pkt", "ab", "ft", "nst", "crd")
    }
    assert weights == {
        "at": 1000, "sp": 3000, "cckd": 0.02, "vid": 1, "pkt": 30000, "ab": 0.003, "ft": 200, "nst": 50, "crd": 0.8
    }  # fmt: skip
    assert (options("rkd").distance, options("rkd").angle) == (25, 50)
    assert (options("kd").alpha, options("kd").temperature, options("kd").hard_weight) == (0.9, 4, None)
    assert (options("fitnets").mode, options("fitnets").hint_weight) == ("joint", None)  # 100, by default


SHAPE = [(150, 1.0), (30, 0.1), (30, 0.01), (30, 0.001)]
"""How many epochs each share of the rate lasts, in the paper."""


@pytest.mark.parametrize(
    ("pair", "method"),
    every(
        2,
        [
            *(("resnet20_from_resnet56", method) for method in ("none", "fitnets", "ab", "ft", "fsp", "crd+kd")),
            *(("vgg8_from_vgg13_cifar", method) for method in ("ab", "ft")),
            *(("shufflenet_v1_from_resnet32x4", method) for method in ("kd", "ab", "ft")),
        ],
        first=1,
    ),
)
def test_the_rates_of_cifar_recipes_come_to_the_last_epoch(pair: str, method: str, cifar: Path) -> None:
    flags = {"method": method, "data.name": str(cifar)}
    setting = build_setting(recipes.load(f"cifar100/{pair}.yaml", flags=flags))
    recipe, steps = setting.recipe, 3
    found = runs_of(rates(setting.stages, recipe.optim, recipe.schedule, recipe.train.epochs, steps))
    lr = 0.01 if pair.startswith("shufflenet") else 0.05
    main = [(epochs * steps, float(f"{lr * share:.6g}")) for epochs, share in SHAPE]
    first = {"ab": lr, "fsp": lr, "ft": 0.05 if pair.startswith("vgg") else 0.01}.get(method)
    if first == lr:  # the first stage and the beginning of the second have one rate
        main = [(main[0][0] + 30 * steps, lr), *main[1:]]
    elif first is not None:
        main = [(30 * steps, first), *main]
    assert found == main


@pytest.mark.parametrize("name", [name for name in COMMANDED if not name.startswith("cifar100/")])
def test_the_rates_of_other_recipes_come_down_to_the_end_in_every_stage(name: str, tmp_path: Path) -> None:
    size = (28, 28) if name.startswith("mnist/") else (70, 80)
    if name.startswith("sst2/"):
        data = str(sentences(tmp_path / "data.tsv"))
    elif name.startswith("digits/"):
        data = "digits"
    elif name.startswith(("taught/", "language/")):
        data = str(chats(tmp_path / "data.jsonl"))
    else:
        data = str(write_images(tmp_path / "data", {"a": 12, "b": 12}, size))
    flags: dict[str, Any] = {"data.name": data} | (
        {"data.image_size": 64, "data.workers": 0} if "photos" in name else {}
    )
    teacher: dict[str, Any] = {"teacher.model": "mlp_30", "teacher.weights": "scratch"} if "mlp_1200_kd" in name else {}
    if name.startswith("sst2/"):
        teacher = {"teacher.model": "transformer-tiny", "student.tokenizer": "auto", "data.val_fraction": 0.2,
                   "train.batch_size": 8}  # fmt: skip
    if name.startswith(("taught/", "language/")):
        teacher = {"student.tokenizer": "own", "data.vocab_size": 300, "train.batch_size": 8}
    if name.startswith("language/"):
        teacher |= {"teacher.model": "llama-tiny"}
    setting = build_setting(recipes.load(name, flags=flags | teacher))
    recipe = setting.recipe
    assert sum(each.epochs for each in setting.stages) == recipe.train.epochs
    steps = max(3, 100 // recipe.train.epochs)
    for each in setting.stages:
        (*_, last) = found = rates([each], recipe.optim, recipe.schedule, recipe.train.epochs, steps)
        assert len(found) == steps * each.epochs
        assert max(found) > 0.9 * (recipe.optim.lr or 0)
        assert last == min(found[each.epochs :]) < 0.02 * max(found)


def test_every_epoch_is_seen_on_the_test_split_and_the_last_is_the_result(cifar: Path, tmp_path: Path) -> None:
    done = distil(
        tmp_path / "run", "cifar100/resnet20_from_resnet56.yaml", "--student", "resnet8", "--teacher", "resnet8",
        "--data", cifar, "--epochs", "2", "teacher.check=off",
    )  # fmt: skip
    seen = [line["val"] for line in done.log() if line["phase"] == "student"]
    result = done.result
    assert len(seen) == 2
    assert seen[-1]["top1"] == pytest.approx(result["test"]["student"]["top1"])
    assert result["epochs"]["last"]["epoch"] == result["epochs"]["best"]["epoch"] == 2
    assert result["epochs"]["selected"] == "last"
    assert result["data"]["train"] == 300


def test_the_test_split_may_not_choose_an_epoch(cifar: Path) -> None:
    with pytest.raises(kdtool.errors.InputError, match=r"train\.select=last"):
        recipes.load("cifar100/resnet20_from_resnet56.yaml", ["train.select=best"])


# --- MNIST, photos ----------------------------------------------------------------------------------------------------


def test_mnist_teacher_teaches_the_student(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The two commands of the folder, on few grey images, end to end from one working folder."""
    monkeypatch.chdir(tmp_path)
    data = write_images(tmp_path / "digits", {str(digit): 20 for digit in range(10)}, (28, 28))
    how = ["--data", data, "--epochs", "2", "--batch-size", "16"]
    teacher = distil_here("mnist/mlp_1200.yaml", *how, "--student", "mlp_30")
    assert teacher["student"]["name"] == "mlp_30"
    student = distil_here("mnist/mlp_800_from_mlp_1200_kd.yaml", *how, "--out", "s", "teacher.check=off")
    assert student["test"]["teacher"] == teacher["test"]["student"]
    assert student["student"]["params"] == 1_276_810
    no_3 = distil_here(
        "mnist/mlp_800_from_mlp_1200_kd.yaml", *how, "--out", "no3", "data.exclude_classes=[3]", "teacher.check=off"
    )
    assert no_3["data"]["train"] == student["data"]["train"] - 16


def distil_here(*arguments: object) -> dict[str, Any]:
    done = call("run", "--json", *arguments)
    assert done.code == 0, done.err
    found: dict[str, Any] = json.loads(done.out)
    return found


@pytest.mark.slow
def test_photos_train_offline_on_a_small_folder(tmp_path: Path) -> None:
    photos = write_images(tmp_path / "photos", {"heron": 12, "coot": 12}, (80, 70))
    done = distil(
        tmp_path / "run", "photos/mobilenetv3_from_convnext_tiny_kd.yaml", "--data", photos, "--image-size", "64",
        "--batch-size", "8", "teacher.check=off", "data.workers=0",
    )  # fmt: skip
    recipe = recipes.load(tmp_path / "run" / "recipe.yaml")
    assert (recipe.data.mixup, recipe.train.precision, recipe.options["kd"].temperature) == (0.8, "bf16", 2)
    config = json.loads(done.file("student/config.json"))
    assert config["label_names"] == ["coot", "heron"]
    assert config["pretrained_cfg"]["input_size"] == [3, 64, 64]
    (record,) = done.log()
    assert record["skipped"] == 0
