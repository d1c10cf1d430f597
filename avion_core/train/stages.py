"""A stage: its task, data, model and start weights, and the files it publishes.

    <out>/model.safetensors  model.json  train.jsonl  tensorboard/  manifest.json

Until these exist, `<out>/checkpoints/` has the state for a restart.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from avion_core.config import OPEN_CLIP, StageSettings
from avion_core.data.clips import ClipTable
from avion_core.file_arguments import VALIDATION, numbered
from avion_core.files import checksums, publish, remove_partials, write_manifest
from avion_core.finished import forget, keep, unfinish
from avion_core.manifests import MANIFEST
from avion_core.models.architecture import load_architecture, model_kind
from avion_core.models.base import VideoModel
from avion_core.models.store import (
    DESCRIPTION_FILE,
    WEIGHTS_FILE,
    ModelDescription,
    build_model,
    save_model,
)
from avion_core.processes import STOP_SIGNALS, ignore
from avion_core.train.checkpoint import CheckpointStore
from avion_core.train.distributed import World, join_world
from avion_core.train.earlier import begun_identity, finished_identity
from avion_core.train.engine import Training
from avion_core.train.parts import (
    choose_kernels,
    dataset_of,
    fix_arithmetic,
    loader_of,
    loop_settings,
    optimizer_of,
    schedule_of,
    validation_of,
)
from avion_core.train.preemption import PreemptedError, exit_preempted
from avion_core.train.sinks import Sink, open_sinks
from avion_core.train.start import fill_from_start
from avion_core.train.tasks.setup import task_setup
from avion_core.train.validation import ValidationData, best_and_last

CURVE = "train.jsonl"
"""The training log among the published files."""


def train_stage(
    settings: StageSettings,
    *,
    title: str,
    seed: int,
    files: Mapping[str, Path],
    out: Path,
    validation: ValidationData | None = None,
) -> None:
    """Train a stage and publish it in the folder `out`, continuing from its checkpoints if any.

    `files` by role: `clips_1` …, `chunks`, what the task reads (`sentences`, `classes`), `start` (weights of
    the stage to start from) and `start_weights`, `start_weights_2` … (third-party ones, needed for those of
    open_clip).
    `validation` is the evaluation of `validate_with`. Under torchrun, every process calls this.

    Raises ValueError for settings that do not fit the data or the start weights, and for a loss that is
    not finite; exits with PREEMPTED_EXIT_CODE after SIGTERM or SIGUSR1, once the state is saved.
    """
    own = {
        numbered("start_weights", place): Path(source)
        for place, source in enumerate(settings.start_sources)
        if not source.startswith(OPEN_CLIP)
    }
    files = {**own, **files}
    preempted: PreemptedError | None = None
    with join_world(nodes=settings.nodes, processes=settings.processes, gpus=settings.gpus) as world:
        fix_arithmetic(settings.threads, world)
        try:
            _Stage(settings, files, validation, title=title, seed=seed, out=Path(out), world=world).run()
        except PreemptedError as stop:
            ignore(STOP_SIGNALS)  # another one would interrupt the exit
            preempted = stop
    if preempted is not None:
        if world.leads:
            with suppress(BrokenPipeError):  # the same signal may have ended its reader
                print(f"{preempted}; start it again to go on", file=sys.stderr, flush=True)
        exit_preempted()


class _Stage:
    """One stage, from settings to published files."""

    def __init__(
        self,
        settings: StageSettings,
        files: Mapping[str, Path],
        validation: ValidationData | None,
        *,
        title: str,
        seed: int,
        out: Path,
        world: World,
    ) -> None:
        self.settings, self.validation = settings, validation
        measured = validation.files if validation else {}
        self.files = {**files, **{f"{VALIDATION}{name}": path for name, path in measured.items()}}
        self.title, self.seed, self.out, self.world = title, seed, out, world
        self.kind = model_kind(settings)
        self.setup = task_setup(settings, self.files)

    def run(self) -> None:
        """Train, publish and delete the checkpoints, unless the finished files have this identity."""
        if self.world.from_leader(self.world.leads and self.keep_finished()):
            return
        model = self.fresh_model().to(self.world.device)
        self.world.same_weights(model)
        if self.settings.epochs == 0:
            self.publish(model, log=None)
            return
        checkpoints = self.out / "checkpoints"
        identity = begun_identity(self.identity, checkpoints) if self.world.leads else None
        store = CheckpointStore(checkpoints, self.world.from_leader(identity))
        choose_kernels(self.settings, model, self.setup.model_arguments(), title=self.title, world=self.world)
        with store.claim() if self.world.leads else nullcontext():
            if self.world.leads:
                remove_partials(self.out)  # left by a kill during publication
            training = self.training(model, store)
            training.run(self.title)
            if self.world.leads:
                model.load_state_dict(training.result())
            self.publish(model, log=store.log_path)
        if self.world.leads:
            store.remove()

    def keep_finished(self) -> bool:
        """Whether the stage is finished, with its present identity. For rank 0."""
        return keep(
            self.out,
            (WEIGHTS_FILE, DESCRIPTION_FILE, CURVE),
            identity=lambda manifest: finished_identity(self.identity, manifest),
            title=self.title,
        )

    def fresh_model(self) -> VideoModel:
        """The initial model: from the seed, on rank 0 with the start weights."""
        torch.manual_seed(self.seed)
        model = build_model(self.kind, self.settings.model, **self.setup.model_arguments())
        model.freeze(self.settings.frozen)
        if self.world.leads:  # one download, one error; `World.same_weights` broadcasts them
            fill_from_start(model, self.settings, self.files, title=self.title)
        return model

    def training(self, model: VideoModel, store: CheckpointStore) -> Training:
        """Combine model, data and update rule. Raises ValueError for too few or too short clips."""
        settings, clips = self.settings, ClipTable.load(*self._clip_files())
        if len(clips) < settings.batch_size:
            raise ValueError(
                f"{self.title}: {len(clips)} clips do not fill one batch of {settings.batch_size}; "
                "set a smaller batch_size or give the data set more clips"
            )
        choose_text, entries = self.setup.choose_text(clips), self.setup.entries(clips)
        dataset = dataset_of(settings, clips, self.files["chunks"], model, choose_text, entries)
        dataset.check_length(self.title)
        loader = loader_of(settings, dataset, seed=self.seed, world=self.world)
        return Training(
            self.setup.task(model, clips, self.world),
            loader,
            optimizer_of(settings, model, self.world),
            schedule=schedule_of(settings, steps_per_epoch=loader.steps_per_epoch),
            loop=loop_settings(settings, loader.steps_per_epoch, seed=self.seed, device=self.world.device),
            world=self.world,
            store=store,
            sinks=self._sinks(store) if self.world.leads else (),
            validation=validation_of(
                settings,
                self.validation,
                model,
                self._description(model),
                title=self.title,
                device=self.world.device,
                steps_per_epoch=loader.steps_per_epoch,
            ),
        )

    def _sinks(self, store: CheckpointStore) -> list[Sink]:
        identity = f"{self.title.replace('/', '-')}-{store.states_dir.name}"
        return open_sinks(
            self.out, title=self.title, identity=identity, wandb_project=self.settings.wandb_project
        )

    def publish(self, model: VideoModel, *, log: Path | None) -> None:
        """Write the stage's four files, the manifest last; without a log the curve is empty."""
        if not self.world.leads:
            return
        unfinish(self.out)
        save_model(self.out, model, self._description(model))
        with publish(self.out / CURVE) as draft:
            if log is None:
                draft.touch()
            else:
                shutil.copyfile(log, draft)
        recorded: dict[str, Any] = {
            "title": self.title,
            "seed": self.seed,
            "stage": self.settings.model_dump(mode="json"),
        }
        if log is not None:
            recorded["clips"] = len(ClipTable.load(*self._clip_files()))
            if self.validation is not None:
                recorded["validation"] = best_and_last(log, self.settings.best_metric)
        write_manifest(self.out / MANIFEST, settings=recorded, inputs=self.files, identity=self.identity)
        forget(self.out)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Everything that affects the result; checkpoints of another identity are not resumed. For rank 0."""
        measured = {}
        if self.validation:
            # without its arithmetic, which changes the figures too little to train again
            recipe = self.validation.settings.recipe()
            measured["validation"] = {name: recipe[name] for name in recipe if name != "precision"}
        return {
            "recipe": self.settings.recipe(),
            "architecture": load_architecture(self.settings.model).model_dump(mode="json"),
            "seed": self.seed,
            "inputs": checksums(self.files),
            **measured,
        }

    def _description(self, model: VideoModel) -> ModelDescription:
        settings = self.settings
        return ModelDescription(
            kind=model.kind,
            architecture=settings.model,
            frames=settings.frames,
            image_size_px=settings.image_size_px,
            classes=self.setup.classes,
            further_classes=dict(self.setup.further_classes),
            label=settings.predicts,
            task=settings.task,
            sampling=settings.sampling,
            stride=settings.stride,
        )

    def _clip_files(self) -> list[Path]:
        return [path for name, path in self.files.items() if name.startswith("clips_")]
