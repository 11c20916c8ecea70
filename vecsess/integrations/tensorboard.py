"""A session's health as TensorBoard scalars; any writer with `add_scalar` will do."""

from __future__ import annotations

from typing import Protocol

from vecsess.session.vector import VecCheckedSession

_SUMS = ("rss_bytes", "unique_bytes", "cpu_percent", "steps_per_s", "restarts", "waited_s")
_WORST = ("step_p50_s", "step_p99_s", "open_files", "threads")


class ScalarWriter(Protocol):
    """What is needed of a writer: `torch.utils.tensorboard.SummaryWriter` has it, and others."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> object:
        """Writes one number."""
        ...


def log_health(
    writer: ScalarWriter, vec: VecCheckedSession, step: int, prefix: str = "vecsess"
) -> None:
    """Writes how the workers are: sums over all of them, the worst of them, and how many are well.

    Args:
        writer: has `add_scalar(tag, value, step)`.
        vec: an open session.
        step: of the training, for the axis.
        prefix: of the tags, such as "vecsess/steps_per_s" and "vecsess/worst_step_p99_s".

    Raises:
        ClosedError: the session was closed.

    Example:
        >>> class Printer:
        ...     def add_scalar(self, tag, value, step):
        ...         if tag.endswith(("workers_ready", "incidents")):
        ...             print(tag, int(value), step)
        >>> with VecCheckedSession("CartPole-v1", n=4, workers=2) as vec:
        ...     log_health(Printer(), vec, step=1000)
        vecsess/workers_ready 2 1000
        vecsess/incidents 0 1000
    """
    workers = vec.health()
    scalars: dict[str, float] = {
        "workers_ready": sum(worker.state == "ready" for worker in workers),
        "incidents": len(vec.incidents),
    }
    for name in _SUMS:
        known = [getattr(worker, name) for worker in workers]
        scalars[name] = sum(value for value in known if value is not None)
    for name in _WORST:
        known = [getattr(worker, name) for worker in workers]
        scalars[f"worst_{name}"] = max((v for v in known if v is not None), default=0)
    for name, value in scalars.items():
        writer.add_scalar(f"{prefix}/{name}", float(value), step)
