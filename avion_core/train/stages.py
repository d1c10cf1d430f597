"""A stage: which task, data, model and start weights belong together, and what is published at the end.

    <out>/model.safetensors  model.json  train.jsonl  tensorboard/  manifest.json

Until these are there, `<out>/checkpoints/` holds what a restart needs.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from avion_core.config import (
    ClassificationStage,
    ComparingStage,
    ContrastiveStage,
    ReconstructionStage,
    RelevancyStage,
    StageSettings,
)
from avion_core.data.chunks import ChunkIndex
from avion_core.data.clips import ClipTable, Sentences
from avion_core.data.dataset import ChooseText, ClipDataset, View
from avion_core.data.loader import BatchLoader
from avion_core.files import checksums, publish, read_json, remove_partials, write_manifest
from avion_core.finished import forget, keep, unfinish
from avion_core.manifests import MANIFEST
from avion_core.models.architecture import kind_of, load_architecture
from avion_core.models.base import VideoModel
from avion_core.models.foreign import start_from_foreign
from avion_core.models.layers import compile_blocks, set_attention, set_checkpointing
from avion_core.models.store import (
    DESCRIPTION_FILE,
    WEIGHTS_FILE,
    ModelDescription,
    build_model,
    save_model,
    start_from,
)
from avion_core.processes import STOP_SIGNALS, ignore
from avion_core.train.checkpoint import CheckpointStore
from avion_core.train.distributed import World, join_world
from avion_core.train.earlier import begun_identity, finished_identity
from avion_core.train.engine import Plan, Training
from avion_core.train.losses import RANKINGS, Gather, local
from avion_core.train.meter import peak_tflops
from avion_core.train.optim import Schedule, make_optimizer, parameter_groups
from avion_core.train.preemption import PreemptedError, exit_preempted
from avion_core.train.protocols import Task
from avion_core.train.relevancy import PairRelevancy
from avion_core.train.sinks import Sink, open_sinks
from avion_core.train.tasks import ClassificationTask, ContrastiveTask, ReconstructionTask, RelevancyTask
from avion_core.train.texts import AnyText, RelevantSentence
from avion_core.train.validation import Validation, ValidationData, best_and_last

CURVE = "train.jsonl"
"""The training log among the published files."""
LABEL_COLUMN = {"action": "label", "label": "label", "verb": "verb", "noun": "noun"}
"""Column of the clip table that holds a label; the action class of EPIC-KITCHENS-100 is its `label`."""


def train_stage(
    settings: StageSettings,
    *,
    title: str,
    seed: int,
    clips: Sequence[Path],
    chunks: Path,
    sentences: Path | None,
    classes: Path | None,
    start: Path | None,
    out: Path,
    validation: ValidationData | None = None,
    start_weights: Path | None = None,
) -> None:
    """Train a stage and publish it in the folder `out`, going on from its checkpoints if it has any.

    `sentences` is the table of the relevancy task, `classes` the class names of classification, `start`
    the folder of the stage whose weights are the start, `validation` what `validate_with` names, and
    `start_weights` the file of third-party weights, needed for those of open_clip. Started by torchrun, every
    process calls this.

    Raises ValueError for settings that do not fit the data or the start weights, and for a loss that is
    not finite; exits with PREEMPTED_EXIT_CODE after SIGTERM or SIGUSR1, when the state is saved.
    """
    files = {f"clips_{number}": Path(path) for number, path in enumerate(clips, start=1)}
    optional = {
        "sentences": sentences,
        "classes": classes,
        "start": start and Path(start) / WEIGHTS_FILE,
        "start_weights": start_weights or settings.start_file,
    }
    files |= {"chunks": Path(chunks)} | {name: Path(path) for name, path in optional.items() if path}
    preempted: PreemptedError | None = None
    with join_world(nodes=settings.nodes, processes=settings.processes, gpus=settings.gpus) as world:
        _fix_arithmetic(settings.threads, world)
        try:
            _Stage(settings, files, validation, title=title, seed=seed, out=Path(out), world=world).run()
        except PreemptedError as stop:
            ignore(STOP_SIGNALS)  # a further one would interrupt the ending
            preempted = stop
    if preempted is not None:
        if world.leads:
            with suppress(BrokenPipeError):  # the same signal may have ended what reads it
                print(f"{preempted}; start it again to go on", file=sys.stderr, flush=True)
        exit_preempted()


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a task is made of beside its settings."""

    model: Any
    """One of `models.architecture.MODELS`, on its device."""
    clips: ClipTable
    sentences: Sentences | None
    """Of the relevancy task."""
    classes: int
    world: World

    def gather(self, settings: ComparingStage) -> Gather:
        """Where negatives come from."""
        return self.world.gather if settings.negatives == "global" else local


def _contrastive(settings: ContrastiveStage, parts: Parts) -> Task:
    return ContrastiveTask(parts.model, gather=parts.gather(settings))


def _relevancy(settings: RelevancyStage, parts: Parts) -> Task:
    assert parts.sentences is not None
    return RelevancyTask(
        parts.model,
        ranking=partial(RANKINGS[settings.loss_name], **settings.loss_values),
        relevancy=PairRelevancy(parts.clips, parts.sentences, device=parts.world.device),
        gather=parts.gather(settings),
    )


def _classification(settings: ClassificationStage, parts: Parts) -> Task:
    labels = torch.from_numpy(parts.clips.column(LABEL_COLUMN[settings.label]))
    return ClassificationTask(
        parts.model,
        labels=labels.to(parts.world.device),
        classes=parts.classes,
        mixup=settings.mixup,
        cutmix=settings.cutmix,
        label_smoothing=settings.label_smoothing,
    )


def _reconstruction(settings: ReconstructionStage, parts: Parts) -> Task:
    return ReconstructionTask(
        parts.model, mask_ratio=settings.mask_ratio, target_epsilon=settings.target_epsilon
    )


TASKS: dict[str, Callable[[Any, Parts], Task]] = {
    "contrastive": _contrastive,
    "relevancy": _relevancy,
    "classification": _classification,
    "reconstruction": _reconstruction,
}
"""Every task by its name in the settings."""


class _Stage:
    """One stage on its way from settings to published files."""

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
        self.files = {**files, **(validation.files() if validation else {})}
        self.title, self.seed, self.out, self.world = title, seed, out, world
        self.kind = kind_of(settings)
        self.classes = self._count_classes()

    def run(self) -> None:
        """Train, publish, and drop the checkpoints, unless the finished files are of this identity."""
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
        self.choose_kernels(model)
        with store.claim() if self.world.leads else nullcontext():
            if self.world.leads:
                remove_partials(self.out)  # of a kill while the results were published
            training = self.training(model, store)
            training.run(self.title)
            if self.world.leads:
                model.load_state_dict(training.result())
            self.publish(model, log=store.log_path)
        if self.world.leads:
            store.remove()

    def keep_finished(self) -> bool:
        """Whether the stage is finished, with all that decides its result as it is now. For rank 0."""
        names = (WEIGHTS_FILE, DESCRIPTION_FILE, CURVE)
        return keep(
            self.out,
            names,
            identity=lambda manifest: finished_identity(self.identity, manifest),
            title=self.title,
        )

    def fresh_model(self) -> VideoModel:
        """The model that the training starts from: the seed's, on rank 0 with the start weights."""
        settings = self.settings
        torch.manual_seed(self.seed)
        model = build_model(self.kind, settings.model, **self._model_arguments())
        if not self.world.leads:  # one download, one error; `World.same_weights` hands them on
            return model
        waived = {
            "fresh": settings.start_fresh,
            "waive_missing": settings.waive_missing,
            "waive_unexpected": settings.waive_unexpected,
        }
        if "start" in self.files:
            source = str(self.files["start"].parent)
            report = start_from(model, source, **waived)
        elif settings.start_weights is not None:
            source = settings.start_weights
            if "start_weights" not in self.files:
                raise ValueError(
                    f"{self.title}: {source} is not on this machine; fetch it with 'snakemake weights' where "
                    "there is a network, and give the file by --start-weights"
                )
            path = self.files["start_weights"]
            key = settings.start_weights_key
            report = start_from_foreign(model, path, source=source, key=key, **waived)
        else:
            return model
        print(f"{self.title}: starts from {source}; {report}", file=sys.stderr, flush=True)
        return model

    def choose_kernels(self, model: VideoModel) -> None:
        """How the model computes, which changes neither its weights nor, but for rounding, its results."""
        set_attention(model, self.settings.attention)
        set_checkpointing(model, self.settings.gradient_checkpointing)
        if self.settings.compile:
            compile_blocks(model)

    def training(self, model: VideoModel, store: CheckpointStore) -> Training:
        """Model, data and update rule put together. Raises ValueError for too few clips or too short ones."""
        settings, clips = self.settings, ClipTable.load(*self._clip_files())
        if len(clips) < settings.batch_size:
            raise ValueError(
                f"{self.title}: {len(clips)} clips do not fill one batch of {settings.batch_size}; "
                "set a smaller batch_size or give the data set more clips"
            )
        sentences = self._sentences()
        parts = Parts(model=model, clips=clips, sentences=sentences, classes=self.classes, world=self.world)
        loader = self._loader(model, clips, sentences)
        groups = parameter_groups(
            model,
            weight_decay=settings.weight_decay,
            layer_decay=settings.layer_decay,
            no_decay=settings.no_weight_decay,
        )
        return Training(
            TASKS[settings.task](settings, parts),
            loader,
            make_optimizer(
                settings.optimizer,
                groups,
                betas=settings.betas,
                momentum=settings.momentum,
                shard=settings.shard_optimizer and self.world.size > 1,
            ),
            schedule=schedule_of(settings, steps_per_epoch=loader.steps_per_epoch),
            plan=Plan(
                steps=settings.epochs * loader.steps_per_epoch,
                seed=self.seed,
                batch_size=settings.batch_size,
                log_every_steps=settings.log_every_steps,
                checkpoint_every_steps=settings.checkpoint_every_steps,
                checkpoint_every_minutes=settings.checkpoint_every_minutes,
                accumulation_steps=settings.accumulation_steps,
                ema_decay=settings.ema_decay,
                gradient_clip=settings.gradient_clip,
                precision=settings.precision,
                peak_tflops=settings.peak_tflops or peak_tflops(self.world.device, settings.precision),
            ),
            world=self.world,
            store=store,
            sinks=self._sinks(store) if self.world.leads else (),
            validation=self._validation(model, loader.steps_per_epoch),
        )

    def _sinks(self, store: CheckpointStore) -> list[Sink]:
        identity = f"{self.title.replace('/', '-')}-{store.room.name}"
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
        """What decides the result: checkpoints of another identity are not taken up. For rank 0."""
        measured = {"validation": self.validation.settings.recipe()} if self.validation else {}
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
            classes=self.classes,
            label=settings.predicts,
            task=settings.task,
            sampling=settings.sampling,
            stride=settings.stride,
        )

    def _validation(self, model: VideoModel, steps_per_epoch: int) -> Validation | None:
        data, description = self.validation, self._description(model)
        if data is None:
            return None
        return Validation(
            measure=lambda: data.measure(
                model,
                description,
                title=self.title,
                device=self.world.device,
                clip_timeout_seconds=self.settings.clip_timeout_seconds,
                max_bad_share=self.settings.max_bad_share,
            ),
            every_steps=self.settings.validate_every_epochs * steps_per_epoch,
            best_metric=self.settings.best_metric,
        )

    def _model_arguments(self) -> dict[str, Any]:
        return self.settings.model_arguments() | ({"classes": self.classes} if self.classes else {})

    def _loader(self, model: VideoModel, clips: ClipTable, sentences: Sentences | None) -> BatchLoader:
        settings = self.settings
        dataset = ClipDataset(
            clips,
            ChunkIndex.load(self.files["chunks"]),
            view_of(settings),
            choose_text=self._choose_text(clips, sentences),
            context_length=model.config.context_length,
            tokenizer=model.config.tokenizer,
        )
        dataset.check_length(self.title)
        return BatchLoader(
            dataset,
            batch_size=settings.batch_size // self.world.size,
            seed=self.seed,
            rank=self.world.rank,
            world_size=self.world.size,
            workers=settings.loader_workers,
            shuffle=True,
            drop_last=True,
            max_bad_share=settings.max_bad_share,
            clip_timeout_s=settings.clip_timeout_seconds,
        )

    def _choose_text(self, clips: ClipTable, sentences: Sentences | None) -> ChooseText | None:
        settings = self.settings
        if sentences is not None and isinstance(settings, RelevancyStage):
            return RelevantSentence(clips, sentences, min_relevancy=settings.min_relevancy)
        return AnyText(clips) if settings.task == "contrastive" else None

    def _sentences(self) -> Sentences | None:
        """What the relevancy task ranks, None for other tasks."""
        if self.settings.task != "relevancy":
            return None
        if "sentences" not in self.files:
            raise ValueError("the task 'relevancy' needs a table of sentences; the layout ek100 has one")
        return Sentences.load(self.files["sentences"])

    def _clip_files(self) -> list[Path]:
        return [path for name, path in self.files.items() if name.startswith("clips_")]

    def _count_classes(self) -> int:
        """Outputs of the classifier's head, 0 for other tasks."""
        label, path = self.settings.predicts, self.files.get("classes")
        if not label:
            return 0
        names = read_json(path) if path else {}
        if not names.get(label):
            raise ValueError(
                f"{path or 'classes'}: no class names for the label '{label}'; "
                f"this data set has: {', '.join(name for name in names if names[name]) or 'none'}"
            )
        return len(names[label])


def view_of(settings: StageSettings) -> View:
    """How training looks at a clip."""
    return View(
        frames=settings.frames,
        sampling=settings.sampling,
        stride=settings.stride,
        image_size_px=settings.image_size_px,
        crop=settings.crop,
        crop_scale=settings.crop_scale,
        horizontal_flip=settings.horizontal_flip,
        rand_augment=settings.rand_augment,
        rand_augment_interpolation=settings.rand_augment_interpolation,
        rand_augment_whole_frame=settings.rand_augment_whole_frame,
        random_erasing=settings.random_erasing,
        training=True,
    )


def schedule_of(settings: StageSettings, *, steps_per_epoch: int) -> Schedule:
    """The stage's rates, all of them multiplied by batch_size / learning_rate_batch where that is set."""
    factor = settings.batch_size / settings.learning_rate_batch if settings.learning_rate_batch else 1.0
    return Schedule(
        kind=settings.schedule,
        peak=settings.learning_rate * factor,
        steps=settings.epochs * steps_per_epoch,
        warmup_steps=int(settings.warmup_epochs * steps_per_epoch),
        start=settings.warmup_start_rate * factor,
        final=settings.final_rate * factor,
    )


def _fix_arithmetic(threads: int, world: World) -> None:
    """Threads, and on the CPU only algorithms that give the same bits each time."""
    torch.set_num_threads(threads)
    if world.device.type == "cpu":
        torch.use_deterministic_algorithms(True)
        # filling every new tensor first would cost time and guard nothing here
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
