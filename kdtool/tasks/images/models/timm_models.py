"""Networks of timm's architectures, at an image size and with weights."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from kdtool.errors import InputError, first_line
from kdtool.randomness import seeded_libraries
from kdtool.tasks.common.weight_files import fit, mark_loaded, mark_new_head, open_state, with_own_head
from kdtool.tasks.common.weight_names import matched, unwrapped
from kdtool.tasks.common.weights import digest
from kdtool.tasks.images.models import first_layer
from kdtool.tasks.images.models.built import (
    IN_CHANS,
    Built,
    Request,
    check_logits,
    dry_logits,
    load_file,
)
from kdtool.tasks.images.models.hub import WEIGHT_FILES, cached_weights, why_unreachable
from kdtool.tasks.images.models.inputs import Inputs, channels_of
from kdtool.tasks.images.models.sources import Source, check_args, find_source, registering_package
from kdtool.tasks.images.models.trace import classifiers

USUAL_SIZES = (32, 64, 96, 128, 160, 192, 224, 240, 256, 288, 299, 320, 384, 448)


def build_timm(request: Request) -> Built:
    """Return a network of timm's, with the weights that the request asks for.

    Raises:
        InputError: see ``kdtool.tasks.images.models.build.build``.
    """
    source = find_source(request.name, request.weights != "scratch")
    check_args(request.model_args, "model_args")
    module, model_args, size = _make(source, request)
    mean, std = _normalisation(module)
    built = Built(
        module,
        request.name,
        "scratch",
        mean,
        std,
        size,
        channels=request.channels,
        num_classes=request.num_classes,
        timm_name=source.architecture,
        model_args=model_args,
        import_first=registering_package(source.architecture),
        said=[Inputs("its own", mean, std)],
    )
    if request.weights == "scratch":
        return built
    if not request.num_classes and (path := request.weights_file or _weights_in(source)) is not None:
        _load_body(built, path, request)
        return built
    if request.weights_file is not None:
        _load_file(built, request.weights_file, source, request)
    elif source.folder is not None:
        _load_folder(built, source, request)
    elif request.weights == "pretrained" or not request.prefer_scratch:
        _load_pretrained(built, source, request)
    return built


def _normalisation(module: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...]]:
    from timm.data import resolve_model_data_config

    config = resolve_model_data_config(module)
    return tuple(config["mean"]), tuple(config["std"])


# --- the network at an image size -------------------------------------------------------------------------------------


def _make(source: Source, request: Request) -> tuple[nn.Module, dict[str, Any], int]:
    """Return a network with its first weights, its full constructor arguments, and its image size.

    Raises:
        InputError: it does not take the arguments, or does not run at the image size.
    """
    own_channels = source.model_args.get(IN_CHANS)
    if own_channels not in (None, 3, request.channels):
        raise InputError(
            f"{request.name} takes images of {channels_of(own_channels)}: data.channels={own_channels} gives them."
        )
    given = {**source.model_args, **request.model_args}
    if request.channels != (own_channels or 3):
        given[IN_CHANS] = request.channels
    own = int((source.cfg.get("input_size") or (3, 224, 224))[-1])
    size = request.image_size or _side(request.model_args.get("img_size")) or own
    made = _at_size(source, request, given, size)
    if not isinstance(made, Exception):
        return *made, size
    if isinstance(made, InputError):
        raise made
    native = _at_size(source, request, given, own)
    if isinstance(native, Exception):
        raise InputError(
            f"{request.name} cannot be made with {given or 'its own arguments'}: {first_line(native)}"
        ) from native
    larger = (s for s in USUAL_SIZES if size < s < own)
    fits = next((s for s in larger if not isinstance(_at_size(source, request, given, s), Exception)), own)
    raise InputError(
        f"{request.name} does not run on {size}x{size} images ({first_line(made)}). It takes {fits}x{fits}: use "
        f"{request.size_option}{fits}, or another model."
    ) from made


def _at_size(
    source: Source, request: Request, given: dict[str, Any], size: int
) -> tuple[nn.Module, dict[str, Any]] | Exception:
    """Return the network and its arguments, or why it does not run at an image size.

    timm's models differ: some take any image, some are built for one size (``img_size``), some need it only to be
    told of another one. The size is told where that is needed.
    """
    own = (source.cfg.get("input_size") or (3, 224, 224))[-1]
    told = {**given, "img_size": size}
    asked = _side(request.model_args.get("img_size"))
    if asked is not None:
        tries = [given] if asked == size else []
    elif size == own:
        tries = [given, told]
    elif "img_size" in given:
        tries = [told, given]
    else:
        # What is built for one size and yet runs at another (CrossViT rescales) must be told its own when opened again.
        fixed = source.cfg.get("fixed_input_size")
        tries = [told, {**given, "img_size": own}] if fixed else [given, told]
    failure: Exception | None = None
    for model_args in tries:
        try:
            module = _create(source, request, model_args)
            logits = dry_logits(module, size, request.channels)
        except Exception as error:  # whatever a model's constructor or forward raises
            unknown_option = isinstance(error, TypeError) and "img_size" in str(error)
            if failure is None and not unknown_option:
                failure = error
            continue
        check_logits(logits, request)
        return module, model_args
    return failure or InputError(
        f"model_args.img_size={asked} and image size {size} differ; leave img_size out, it follows the image size."
    )


def _create(source: Source, request: Request, model_args: dict[str, Any], **how: Any) -> nn.Module:
    import timm

    with seeded_libraries("init", request.role, request.seed), _quiet():
        module: nn.Module = timm.create_model(
            source.create_name, num_classes=request.num_classes, **{"pretrained": False, **how}, **model_args
        )
    return module


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep timm's warnings about absent configurations off the terminal."""
    logger = logging.getLogger("timm")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _side(size: Any) -> int | None:
    if isinstance(size, (tuple, list)):
        return int(size[-1]) if size else None
    return int(size) if size else None


# --- weights ----------------------------------------------------------------------------------------------------------


def _load_file(built: Built, path: str, source: Source, request: Request, new_head: bool = False) -> None:
    new_head = new_head or request.new_head
    try:
        load_file(built, path, request.weights_key, new_head)
    except InputError as error:
        state, notes = open_state(path, request.weights_key)
        state = unwrapped(state)
        if new_head:
            state = with_own_head(built.module, state, classifiers(built.module))
        converted = _converted(built, source, state)
        if converted is None:
            raise error
        built.module.load_state_dict(converted)
        built.notes += notes + ([] if first_layer.fits(built, state) else [first_layer.sentence(built)])
        mark_loaded(built, path)
        if new_head:
            mark_new_head(built)


def _converted(built: Built, source: Source, state: dict[str, Tensor]) -> dict[str, Tensor] | None:
    """Return weights as timm's own filter makes them fit (original formats, other image sizes), None if it cannot."""
    import timm

    def filtered(state: dict[str, Tensor]) -> dict[str, Tensor] | None:
        overlay = {"state_dict": state, "num_classes": built.num_classes, "label_offset": None, "custom_load": False}
        try:
            with _quiet(), seeded_libraries("converted"):
                module = timm.create_model(
                    source.architecture,
                    pretrained=True,
                    num_classes=built.num_classes,
                    pretrained_cfg_overlay=overlay,
                    **built.model_args,
                )
        except Exception:  # a filter may raise anything on weights that it does not know
            return None
        loaded: dict[str, Tensor] = module.state_dict()
        return loaded

    # Where timm would also take weights that are none of the network's, nothing tells whether it took these.
    if filtered({"no.such.weight": torch.zeros(1)}) is not None:
        return None
    return filtered(state)


def _load_folder(built: Built, source: Source, request: Request) -> None:
    """Load the weights beside a ``config.json``; those for another class count get a new head, as timm gives it."""
    assert source.folder is not None
    path = _weights_in(source)
    assert path is not None
    classes = source.cfg.get("num_classes")
    _load_file(built, path, source, request, new_head=classes != built.num_classes)
    if built.needs_training:
        built.origin = "pretrained"
        built.notes[-1] = _new_head(built, classes)


def _weights_in(source: Source) -> str | None:
    """Return the path of the weights in a source's folder, None where it is none.

    Raises:
        InputError: there are none in it.
    """
    if source.folder is None:
        return None
    path = next((p for name in WEIGHT_FILES if (p := source.folder / name).is_file()), None)
    if path is None:
        raise InputError(f"{str(source.folder)!r} holds no weights ({', '.join(WEIGHT_FILES[:2])}).")
    return str(path)


def _load_body(built: Built, path: str, request: Request) -> None:
    """Load a file's weights into a network without classes: all but those of its final layers."""
    state, notes = open_state(path, request.weights_key)
    cfg = getattr(built.module, "pretrained_cfg", None) or {}
    named = cfg.get("classifier") or ()
    heads = tuple(f"{name}." for name in ([named] if isinstance(named, str) else named))
    state, _ = matched(unwrapped(state), built.module.state_dict().keys(), heads)
    body = {name: value for name, value in state.items() if not name.startswith(heads)}
    if not first_layer.fits(built, body):
        body = first_layer.adapted(built, body)
        notes.append(first_layer.sentence(built))
    built.notes += notes + fit(built.module, body, f"the weights in {path!r}", 0)
    mark_loaded(built, path)


def _load_pretrained(built: Built, source: Source, request: Request) -> None:
    """Take timm's pretrained weights from the cache or the hub; where they cannot be had, say so or fail."""
    import timm

    cfg = timm.models.get_pretrained_cfg(source.create_name)
    reason: str | None = "it has no pretrained weights"
    if cfg is not None and cfg.has_weights:
        cached = cached_weights(cfg)
        reason = None if cached is not None else why_unreachable(cfg)
        if reason is None:
            # A cached file is named to timm, so that it does not ask the hub whether there is a newer one.
            how = {} if cached is None or cached.suffix == ".npz" else {"pretrained_cfg_overlay": {"file": str(cached)}}
            try:
                loaded = _create(source, request, built.model_args, pretrained=True, **how)
                state, heads = loaded.state_dict(), classifiers(built.module)
                fit(built.module, state, "the pretrained weights", built.num_classes, heads)
            except Exception as error:  # a download may fail in many ways
                reason = first_line(error)
    if reason is not None:
        if request.weights == "pretrained":
            raise InputError(
                f"the pretrained weights of {request.name} cannot be had: {reason}. Connect and try again, give a "
                "weights file instead, or use scratch."
            )
        key = "student.weights" if request.role == "student" else "teacher.weights"
        built.warnings.append(
            f"{request.name} starts from scratch: no pretrained weights could be had ({reason}), and it will come out "
            f"far worse than with them. Connect once, and they are kept; or give a file ({key}=FILE), or a "
            f"local-dir:FOLDER as the model. If scratch is meant, {key}=scratch says so"
        )
        return
    if built.channels != int((source.cfg.get("input_size") or (3,))[0]):
        built.notes.append(first_layer.sentence(built))
    built.origin = "pretrained"
    built.weights_id = digest(built.module.state_dict())
    built.needs_training = False
    if cfg.num_classes != built.num_classes and built.num_classes:
        built.needs_training = True
        built.notes.append(_new_head(built, cfg.num_classes))


def _new_head(built: Built, classes: int | None) -> str:
    return (
        f"{built.name}: its pretrained head is for {classes or 'no'} classes, so it gets a new one for "
        f"{built.num_classes}"
    )
