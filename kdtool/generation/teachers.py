"""Whom a name means: a server by its address, a model for vLLM, or a network that some task lets answer."""

from __future__ import annotations

from kdtool.errors import InputError
from kdtool.generation import address
from kdtool.generation.request import Teacher
from kdtool.generation.server import Server
from kdtool.generation.vllm import PREFIX, InProcess
from kdtool.registry import tasks
from kdtool.tasks.task import Task


def open_teacher(
    name: str,
    *,
    key_env: str | None = None,
    concurrency: int = 8,
    timeout_s: float = 600.0,
    any_model: bool = False,
    task: str | None = None,
    device: str | None = None,
) -> Teacher:
    """Return a teacher that is ready to be asked.

    Args:
        name: ``URL#MODEL``, ``vllm:MODEL``, or a network as the task takes it.
        key_env, concurrency, timeout_s, any_model: of a server.
        task: which task's the network is; default: the one that lets networks answer.
        device: where the network runs.

    Raises:
        InputError: it cannot be opened.
    """
    if name.startswith(PREFIX):
        if device is not None:
            raise InputError(f"--device {device}: vLLM chooses its devices itself; leave it out.")
        return InProcess(name.removeprefix(PREFIX))
    if not address.is_address(name):
        return _answering(task).answerer(name, device)
    place = address.parse(name)
    server = Server(place, address.key_for(place, key_env), concurrency, timeout_s, any_model)
    server.connect()
    return server


def _answering(named: str | None) -> Task:
    """Return a task that lets its networks answer."""
    if named is not None:
        return tasks.get(named)
    ready = [entry.load() for entry in tasks.entries() if entry.error is None]
    able = [task for task in ready if type(task).answerer is not Task.answerer]
    if len(able) != 1:
        some = ", ".join(task.name for task in able) or "none"
        raise InputError(f"--task names the task whose network is to answer; these can: {some}.")
    return able[0]
