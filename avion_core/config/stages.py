"""Training stages: the settings that all tasks share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    Field,
    ModelWrapValidatorHandler,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from avion_core.config.base import Count, Fraction, Name, NotNegative, Positive, Precision
from avion_core.config.jobs import StageJob
from avion_core.config.losses import Losses
from avion_core.config.stage_classes import STAGE_TASKS, fitting_stage, stage_class
from avion_core.evaluations import EVALUATIONS
from avion_core.registry import Registry

OPEN_CLIP = "open_clip:"
"""Prefix that marks an open_clip model rather than a file."""


class StageSettings(StageJob):
    """Settings shared by all training stages. Rates and batch sizes are global."""

    job = StageJob
    losses: ClassVar[Losses] = Registry("loss")
    """Losses to choose from, the default first; empty if the task has only one."""
    title: ClassVar[str] = ""
    """Name of the task in the report, if not its own."""
    setup: ClassVar[str]
    """`package.module:Name` of the task's `train.tasks.TaskSetup`."""
    files: ClassVar[tuple[str, ...]] = ()
    """Further files that the task reads, by their role in layouts: `sentences` …"""
    trains: ClassVar[str]
    """Output of the trained models (`ModelKind.output`): `embeddings`, `classes`, `pixels` …, which decides
    the kinds of evaluation."""
    pretrains: ClassVar[bool] = False
    """Whether the stage is pretraining rather than fine-tuning."""
    added: ClassVar[tuple[str, ...]] = ("freeze", "force_weight_decay")
    """Settings that the first recipes did not have; not written where they have their default."""
    compares_texts: ClassVar[bool] = False
    """Whether clips are compared with texts."""
    reads_narrations: ClassVar[bool] = False
    """Whether the texts are the clips' own narrations."""

    task: str
    """What is learned, which decides the further settings."""
    dataset: Name
    """Data set whose training split is used."""
    model: str
    """Architecture, a file in avion_core/models/architectures."""
    start: str | None = None
    """Stage of the same run to start from; null for a fresh model."""
    start_weights: str | Annotated[tuple[str, ...], Field(min_length=2)] | None = None
    """Third-party weights to start from: a `.pt` or `.safetensors` file, or `open_clip:<model>/<tag>`, such
    as open_clip:ViT-B-16/openai, which `snakemake weights` downloads; `docs/models.md` lists what is read. A
    list names several that complement each other, such as an image model and a text model."""
    start_weights_key: str | None = None
    """Entry of that file with the weights, needed where it holds several sets, such as `model` and `ema`;
    null for the only one."""
    start_fresh: tuple[str, ...] = ()
    """Weights (fnmatch patterns) to reinitialise even if the checkpoint has them."""
    waive_missing: tuple[str, ...] = ()
    """Weights (fnmatch patterns) that the checkpoint may lack; they are initialised."""
    waive_unexpected: tuple[str, ...] = ()
    """Weights (fnmatch patterns) of the checkpoint that this model does not use."""
    freeze: tuple[str, ...] = ()
    """Weights (fnmatch patterns) that are not trained: they keep their start values. A tower whose weights
    are all frozen runs without dropout, drop path and patch dropout, and keeps no activations."""

    frames: Count = 4
    """Frames per clip."""
    sampling: Literal[
        "segments", "lavila_segments", "window", "padded_window", "spread_window", "jittered_window"
    ] = "segments"
    """`segments`: one frame out of each of equal parts (`lavila_segments`: of LaViLa's parts, which leave out
    the last frame and have rounded borders); `window`: every `stride`-th frame (`padded_window`: from windows
    of `frames` times `stride` frames, short clips followed by black, LaViLa's for EGTEA); in training also
    `spread_window`: evenly over `frames` times `stride` frames, the last included (VideoMAE's fine-tuning),
    or `jittered_window`: each frame 0 to `stride` - 1 later, short clips repeated (AVION's VideoMAE)."""
    stride: Count = 4
    """Distance between a window's frames, at the chunks' frame rate."""
    image_size_px: Annotated[int, Field(ge=16)] = 224
    """Side of the square input."""
    crop: Literal["random_resized", "multi_scale", "center"] = "random_resized"
    """How the training crop is chosen."""
    crop_scale: tuple[Fraction, Fraction] = (0.5, 1.0)
    """Area range of the random resized crop."""
    horizontal_flip: Fraction = 0.0
    """Probability of a mirrored clip."""
    rand_augment: str | None = None
    """timm's policy string, such as rand-m7-n4-mstd0.5-inc1; null for none."""
    rand_augment_interpolation: Literal["nearest", "bilinear", "bicubic"] = "bilinear"
    """RandAugment's interpolation: bilinear in AVION, bicubic in VideoMAE."""
    rand_augment_whole_frame: bool = False
    """RandAugment before the crop, on whole frames (VideoMAE), instead of after it (AVION); reads slower."""
    random_erasing: Fraction = 0.0
    """Probability that a box of the clip is erased."""

    epochs: Annotated[int, Field(ge=0)] = 5
    """Passes over the clips; 0 publishes the start weights as they are."""
    batch_size: Count = 256
    """Clips per step over all processes."""
    optimizer: Literal["adamw", "sgd", "lion"] = "adamw"
    """Update rule."""
    learning_rate: Positive = 3e-5
    """Peak rate."""
    learning_rate_batch: Count | None = None
    """Reference batch size; rates scale by batch_size / this. null for no scaling."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Schedule of the rate after warm-up."""
    warmup_epochs: NotNegative = 0.0
    """Epochs of linear warm-up."""
    warmup_start_rate: NotNegative = 1e-6
    """Rate at step 0 of the warm-up."""
    final_rate: NotNegative = 1e-5
    """Rate at the end of the cosine."""
    weight_decay: NotNegative = 0.01
    """Decay of weights with two or more dimensions: decoupled in AdamW and Lion, in the gradient in SGD."""
    no_weight_decay: tuple[str, ...] = ()
    """Further weights (fnmatch patterns) without decay: mask_token in VideoMAE's original, none in AVION."""
    force_weight_decay: tuple[str, ...] = ()
    """Vectors and position tables (fnmatch patterns) with decay all the same: position tables and class token
    in LaViLa."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    """AdamW's and Lion's averages."""
    momentum: Fraction = 0.9
    """SGD's momentum."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Factor on the rate for each layer further from the head."""
    gradient_clip: Positive | None = None
    """Largest gradient norm; null for no clipping."""
    precision: Precision = "fp32"
    """Arithmetic of the forward pass; weights stay fp32. fp16 scales the loss, and where a gradient
    overflows, skips the update and lowers the factor; bf16 needs no such care where the hardware has it."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """The published model is the running average of the weights, each update's share 1 - ema_decay; null for
    the last weights."""
    validate_with: Name | None = None
    """Evaluation whose data set, views and figures validate the model while it is trained, with the stage's
    own number of frames; null for none. Figures go into the log."""
    validate_every_epochs: Count = 1
    """Epochs between validations; the end is validated too."""
    best_metric: str | None = None
    """The published model is the validated one that is highest in this figure, such as `mAP.mean` or
    `action_top1`; null for the last one."""
    drop_path: Fraction = 0.0
    """Rate of stochastic depth."""

    @model_validator(mode="wrap")
    @classmethod
    def _in_the_class_of_its_task(cls, raw: Any, handler: ModelWrapValidatorHandler[Self]) -> Any:
        if not isinstance(raw, Mapping):
            return handler(raw)
        chosen = stage_class(raw)
        return handler(fitting_stage(cls, raw)) if chosen is cls else chosen.model_validate(raw)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.gpus and self.gpus != self.processes:
            raise ValueError(f"gpus ({self.gpus}) must be 0 or equal processes ({self.processes})")
        world = f"nodes times processes ({self.nodes} x {self.processes})"
        if self.batch_size % self.world_size:
            raise ValueError(f"batch_size ({self.batch_size}) must divide among {world}")
        if self.process_batch_size % self.accumulation_steps:
            raise ValueError(
                f"accumulation_steps ({self.accumulation_steps}) must divide each process's share of the "
                f"batch ({self.process_batch_size}: batch_size {self.batch_size} over {world})"
            )
        for name in ("validate_with", "best_metric", "validate_every_epochs"):
            if not self.measured_by and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(
                    f"{name} does not go with the task '{self.task}', which no evaluation measures"
                )
        if self.best_metric and not self.validate_with:
            raise ValueError(f"best_metric ({self.best_metric}) needs validate_with, an evaluation's name")
        if self.crop_scale[0] > self.crop_scale[1] or self.crop_scale[0] == 0:
            raise ValueError("crop_scale is (smallest, largest) share of the area, both above 0")
        if self.augment_on == "device" and self.rand_augment and self.rand_augment_whole_frame:
            raise ValueError(
                "augment_on (device) does not go with rand_augment_whole_frame, as the loader crops what is "
                "augmented; set augment_on: loader"
            )
        if self.start and self.start_weights:
            raise ValueError("start and start_weights exclude each other; set one of them to null")
        if self.start_weights_key and len(self.start_sources) > 1:
            raise ValueError("start_weights_key goes with a single file in start_weights")
        return self

    @model_serializer(mode="wrap")
    def _without_omitted(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        omitted = self.omitted()
        return {name: value for name, value in handler(self).items() if name not in omitted}

    def omitted(self) -> set[str]:
        """Settings that are not written, so that manifests and recipes of earlier versions stay the same."""
        return {name for name in self.added if getattr(self, name) == type(self).model_fields[name].default}

    def model_arguments(self) -> dict[str, Any]:
        """Arguments for building the model, without the number of classes."""
        sizes = {"frames": self.frames, "image_size_px": self.image_size_px}
        return {**sizes, "drop_path": self.drop_path}

    def class_arguments(self, count: Callable[[str], int]) -> dict[str, Any]:
        """Arguments for building a classifier's heads, by the number of classes of each label."""
        return {"classes": count(self.predicts)} if self.trains == "classes" else {}

    def waivers(self) -> dict[str, tuple[str, ...]]:
        """Arguments for loading the start weights: what they may lack or have besides."""
        names = {
            "fresh": "start_fresh",
            "waive_missing": "waive_missing",
            "waive_unexpected": "waive_unexpected",
        }
        return {argument: getattr(self, name) for argument, name in names.items()}

    def check_in_run(self) -> None:
        """Raise ValueError for what the section `stages` may leave to the runs, but no run may lack."""
        if self.frozen and not (self.start or self.start_weights):
            raise ValueError(
                "freeze: the stage starts from nothing, and these weights would stay random; set start or "
                "start_weights, or leave freeze out"
            )

    @property
    def frozen(self) -> tuple[str, ...]:
        """`freeze`; nothing if nothing is trained."""
        return self.freeze if self.epochs else ()

    def dry_run_arguments(self) -> dict[str, Any]:
        """Arguments of the model's `dry_run`, for what the task draws in a step."""
        return {}

    @property
    def measured_by(self) -> tuple[str, ...]:
        """Kinds of evaluation that measure the task's models."""
        return tuple(kind for kind, record in EVALUATIONS.items() if record.needs == self.trains)

    @property
    def clip_tables(self) -> tuple[str, ...]:
        """Clip tables joined for training: `human`, `rephrased`, `narrated`."""
        return ("human",)

    @property
    def sees_clips(self) -> bool:
        """Whether its models use the clips."""
        return True

    @property
    def clips_per_row(self) -> int:
        """Clips that a step has for each of `batch_size`."""
        return 1

    @property
    def cell_seconds(self) -> float | None:
        """Length of the cells that neighbours are drawn from; None without neighbours."""
        return None

    @property
    def predicts(self) -> str:
        """Label predicted by a classifier; empty for other tasks."""
        return ""

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels that a classifier has heads for, the predicted one first."""
        return (self.predicts,) if self.predicts else ()

    @property
    def process_batch_size(self) -> int:
        """Clips per process and step."""
        return self.batch_size // self.world_size

    @property
    def objective(self) -> str:
        """The task for the report, with its loss if there is a choice."""
        return self.title or self.task

    @property
    def loss_name(self) -> str:
        """The chosen loss; the task's name where there is no choice."""
        return self.task

    @property
    def loss_values(self) -> dict[str, Any]:
        """The loss's own settings, with published values where not given."""
        return {}

    @property
    def loss_entries(self) -> tuple[str, ...]:
        """What the loss is told about every clip (`LossSettings.entries`)."""
        return ()

    @property
    def start_sources(self) -> tuple[str, ...]:
        """The entries of `start_weights`."""
        return (self.start_weights,) if isinstance(self.start_weights, str) else self.start_weights or ()


STAGE_TASKS.base = StageSettings  # set here, as the class is made with the registry
