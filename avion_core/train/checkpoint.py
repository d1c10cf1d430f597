"""Resumable states of a training: folders of safetensors and JSON, and the log.

    checkpoints/<fingerprint>/recipe.json      what the fingerprint was made of
                              train.jsonl      the log so far
                              step-00000120/   model.safetensors  optimizer.safetensors  state.json
                                               average.safetensors (with ema_decay)
                              best-00000100.safetensors (with best_metric)

The fingerprint covers everything that affects the result: recipe, seed and the inputs' checksums. States of
another fingerprint stay in their own folder, set aside. Randomness inside a step comes only from (seed, step,
rank), so no generator's state has to be kept.
"""

from __future__ import annotations

import json
import shutil
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from avion_core.files import claim, fingerprint, publish, read_json, remove_partials, write_json
from avion_core.models.store import write_tensors

MODEL, OPTIMIZER, NOTES = "model.safetensors", "optimizer.safetensors", "state.json"
AVERAGE = "average.safetensors"
"""The average of the weights, if any."""

STATES_KEPT = 2
"""The newest, and the one before it in case the newest cannot be read."""


@dataclass(frozen=True)
class State:
    """A training after `step` updates."""

    step: int
    model: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    notes: Mapping[str, Any]
    """JSON-able: the log's length and open window, bad clips by rank, the scaler, the best figure."""
    average: Mapping[str, Tensor] = field(default_factory=dict)
    """The average of the weights; empty if there is none."""


class CheckpointStore:
    """The states of one training in `folder`; another identity starts anew."""

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        self.states_dir = self.folder / fingerprint(identity)
        self._identity = identity

    @property
    def log_path(self) -> Path:
        """The log of an unfinished training."""
        return self.states_dir / "train.jsonl"

    def open(self) -> None:
        """Make the folder, clean up after a kill, and report if states of another recipe are set aside."""
        strangers = [path.name for path in self.folder.glob("*") if path.is_dir() and path != self.states_dir]
        if strangers and not self.states_dir.exists():
            print(
                f"{self.folder}: checkpoints of another recipe, seed or input are set aside "
                f"({', '.join(sorted(strangers))}); training starts anew",
                file=sys.stderr,
                flush=True,
            )
        self.states_dir.mkdir(parents=True, exist_ok=True)
        remove_partials(self.states_dir)
        write_json(self.states_dir / "recipe.json", self._identity)
        self.log_path.touch()

    def path(self, step: int) -> Path:
        """Folder of the state after `step` updates."""
        return self.states_dir / f"step-{step:08}"

    def steps(self) -> list[int]:
        """Steps of the existing states, oldest first."""
        return sorted(int(path.name.removeprefix("step-")) for path in self.states_dir.glob("step-*"))

    def save(self, state: State) -> None:
        """Publish a state as a whole folder, then delete older ones, and later, broken ones."""
        with publish(self.path(state.step)) as draft:
            draft.mkdir()
            files = {MODEL: state.model, OPTIMIZER: state.optimizer, AVERAGE: state.average}
            for name, tensors in files.items():
                if tensors or name != AVERAGE:
                    write_tensors(tensors, draft / name)
            (draft / NOTES).write_text(json.dumps({"step": state.step, **state.notes}), encoding="utf-8")
        kept = [step for step in self.steps() if step <= state.step][-STATES_KEPT:]
        for step in set(self.steps()).difference(kept):
            shutil.rmtree(self.path(step))
        self._drop_best()

    def save_best(self, step: int, model: Mapping[str, Tensor]) -> None:
        """Publish the best weights so far by validation; states refer to them by their step."""
        with publish(self._best_path(step)) as draft:
            write_tensors(model, draft)

    def load_best(self, step: int) -> dict[str, Tensor]:
        """Read what `save_best` wrote after `step` updates."""
        return load_file(self._best_path(step))

    def newest(self) -> State | None:
        """The newest readable state; unreadable ones are named on standard error."""
        for step in reversed(self.steps()):
            try:
                return self.load(step)
            except (OSError, ValueError, SafetensorError) as error:
                print(f"{self.path(step)}: cannot be read ({error}); trying the one before", file=sys.stderr)
        return None

    def load(self, step: int) -> State:
        """Read the state after `step` updates."""
        path = self.path(step)
        return State(
            step=step,
            model=load_file(path / MODEL),
            optimizer=load_file(path / OPTIMIZER),
            average=load_file(path / AVERAGE) if (path / AVERAGE).exists() else {},
            notes=read_json(path / NOTES),
        )

    def remove(self) -> None:
        """Delete all states, including those set aside: the training is finished and published."""
        shutil.rmtree(self.folder)

    @contextmanager
    def claim(self) -> Iterator[None]:
        """Hold the folder for this process. Raises ValueError while another process trains into it.

        A killed workflow may leave its job running on a cluster; the second job must not write beside it.
        The claim ends with the process, in any case.
        """
        with ExitStack() as stack:
            try:
                stack.enter_context(claim(self.folder / "training"))
            except BlockingIOError:
                raise ValueError(
                    f"{self.folder}: another process trains into this folder; wait for it or end it "
                    "(on a cluster: scancel)"
                ) from None
            yield

    def _drop_best(self) -> None:
        """Delete best weights that states no longer refer to; newer ones may not be referred to yet."""
        try:
            referred = read_json(self.path(self.steps()[0]) / NOTES).get("best")
        except (OSError, ValueError):
            return  # `newest` names what cannot be read
        if referred:
            for path in self.states_dir.glob("best-*"):
                if path < self._best_path(int(referred["step"])):
                    path.unlink()

    def _best_path(self, step: int) -> Path:
        return self.states_dir / f"best-{step:08}.safetensors"


def to_memory(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """CPU copies that training does not change."""
    return {name: value.detach().to("cpu", copy=True) for name, value in tensors.items()}


class BackgroundWriter:
    """Saves states to a store in a thread during training; as a context manager it waits for the last.

    A state must be a copy (`to_memory`). A failed save raises ValueError at the next call.
    """

    def __init__(self, store: CheckpointStore) -> None:
        self._store = store
        self._thread: threading.Thread | None = None
        self._failure: str | None = None

    def save(self, state: State) -> None:
        """Start saving, after the previous save is done."""
        self.wait()
        self._thread = threading.Thread(target=self._write, args=(state,), name="checkpoint")
        self._thread.start()

    def check(self) -> None:
        """Raise ValueError if a save has failed."""
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise ValueError(failure)

    def wait(self) -> None:
        """Wait for the save in progress, and check it."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    def __enter__(self) -> BackgroundWriter:
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.wait()
        except ValueError as failure:
            if error is None:
                raise
            print(failure, file=sys.stderr, flush=True)

    def _write(self, state: State) -> None:
        try:
            self._store.save(state)
        except Exception as error:
            self._failure = (
                f"{self._store.folder}: the checkpoint after step {state.step} could not be written "
                f"({error}). Training stopped so that no more work is lost; make room and start it again"
            )
