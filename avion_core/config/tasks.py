"""Tasks: their settings, besides those of all stages, and their traits. Their code is in `train/tasks/`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from avion_core.config.base import Fraction, NotNegative, Positive
from avion_core.config.losses import CONTRASTIVE_LOSSES, RELEVANCY_LOSSES, Losses
from avion_core.config.stage_classes import STAGE_TASKS
from avion_core.config.stages import StageSettings
from avion_core.layouts import label_columns
from avion_core.registry import nearest


def _label(name: str) -> str:
    """A label of a registered layout."""
    if name not in (columns := label_columns()):
        raise ValueError(f"unknown label '{name}'{nearest(name, columns)}")
    return name


Label = Annotated[
    str,
    AfterValidator(_label),
    Field(json_schema_extra=lambda schema: schema.update(enum=list(label_columns()))),
]


class ComparingStage(StageSettings):
    """Settings of tasks whose loss compares clips with texts."""

    trains: ClassVar[str] = "embeddings"
    compares_texts: ClassVar[bool] = True

    loss: str | None = None
    """The loss; its settings are written beside it. null for the task's default."""
    negatives: Literal["global", "local"] = "global"
    """What the loss compares with: the clips and texts of all processes, or of each process alone, so that
    `nodes` and `processes` change the result."""
    patch_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of each clip's patches that the video tower drops in training (FLIP)."""

    @model_validator(mode="after")
    def _has_something_to_compare(self) -> Self:
        if (self.process_batch_size if self.negatives == "local" else self.batch_size) < 2:
            raise ValueError("a loss that compares clips needs at least two at once; set batch_size higher")
        return self

    def omitted(self) -> set[str]:
        """Also loss settings that were not given, because another loss has other settings, and `unused`."""
        return {*super().omitted(), *(self.loss_values.keys() - self.model_fields_set), *self.unused}

    def recipe(self) -> dict[str, Any]:
        """The settings that determine the result, including the processes if negatives are local."""
        world = {"nodes": self.nodes, "processes": self.processes} if self.negatives == "local" else {}
        return super().recipe() | world

    def model_arguments(self) -> dict[str, Any]:
        """Arguments for building the model; patch dropout only if set, as some towers lack it."""
        patches = {"patch_dropout": self.patch_dropout} if self.patch_dropout else {}
        of_the_model = self.losses[self.loss_name].of_the_model
        given = {name: value for name, value in self.loss_values.items() if value is not None}
        values = {name: value for name, value in given.items() if name in of_the_model}
        return {**super().model_arguments(), **patches, **values}

    @property
    def unused(self) -> tuple[str, ...]:
        """Settings that have no effect beside the others, so that they are in no recipe."""
        return ()

    @property
    def objective(self) -> str:
        """The task with its loss, for the report."""
        return f"{super().objective} ({self.losses[self.loss_name].title or self.loss_name})"

    @property
    def loss_name(self) -> str:
        """The chosen loss."""
        return self.loss or next(iter(self.losses))

    @property
    def loss_values(self) -> dict[str, Any]:
        """The loss's own settings, with published values where not given."""
        return {name: getattr(self, name) for name in self.losses[self.loss_name].model_fields}

    @property
    def loss_function(self) -> str:
        """The loss function, `package.module:name`."""
        return self.losses[self.loss_name].function

    @property
    def loss_options(self) -> dict[str, Any]:
        """The loss settings passed to its function."""
        own = self.losses[self.loss_name]
        elsewhere = {*own.of_the_model, *own.of_the_batch}
        return {name: value for name, value in self.loss_values.items() if name not in elsewhere}

    @property
    def loss_entries(self) -> tuple[str, ...]:
        """Entries of the batch passed to the loss function."""
        return self.losses[self.loss_name](**self.loss_values).entries


class ContrastiveStage(ComparingStage):
    """Contrastive learning of clips and narrations, by a dual encoder."""

    losses: ClassVar[Losses] = CONTRASTIVE_LOSSES
    setup: ClassVar[str] = "avion_core.train.tasks.contrastive:ContrastiveSetup"
    pretrains: ClassVar[bool] = True
    reads_narrations: ClassVar[bool] = True

    task: Literal["contrastive"]
    """What is learned."""
    narrations: Annotated[tuple[Literal["human", "rephrased", "narrated"], ...], Field(min_length=1)] = (
        "human",
    )
    """Clip tables, joined: one of each row's texts is drawn at random. `rephrased` texts come from
    `narrate.provider`; `narrated` ones, made from the clips' frames, from `narrator.provider`."""

    neighbours: bool = False
    """Whether each clip brings another of the same cell of its video, as a further clip of the step with its
    own text: EgoVLP's scene-aware negatives. `batch_size` counts the clips that bring one, so that a step
    reads twice as many and needs the memory of as many."""
    neighbour_seconds: Positive = 60.0
    """Length of the cells that a video is cut into; a clip is in that of its middle."""

    def check_in_run(self) -> None:
        """Raise ValueError for a temperature of narrated clips where there are none."""
        super().check_in_run()
        if "narrated" in self.loss_entries and "narrated" not in self.narrations:
            raise ValueError(
                "narrated_temperature: the stage has no narrated clips; add 'narrated' to its narrations, or "
                "set it to null"
            )

    @property
    def unused(self) -> tuple[str, ...]:
        """Those of neighbours without neighbours."""
        return () if self.neighbours else ("neighbours", "neighbour_seconds")

    @property
    def clips_per_row(self) -> int:
        """Two with neighbours."""
        return 2 if self.neighbours else 1

    @property
    def cell_seconds(self) -> float | None:
        """Length of the neighbours' cells."""
        return self.neighbour_seconds if self.neighbours else None

    @property
    def clip_tables(self) -> tuple[str, ...]:
        """Clip tables that the training joins."""
        return self.narrations


class RelevancyStage(ComparingStage):
    """Ranking of clips and sentences by their relevancy, by a dual encoder (multi-instance retrieval)."""

    title: ClassVar[str] = "retrieval"
    losses: ClassVar[Losses] = RELEVANCY_LOSSES
    setup: ClassVar[str] = "avion_core.train.tasks.relevancy:RelevancySetup"
    files: ClassVar[tuple[str, ...]] = ("sentences",)

    task: Literal["relevancy"]
    """What is learned."""
    min_relevancy: Fraction = 0.1
    """A clip's sentence is drawn from those above this relevancy."""


class ClassificationStage(StageSettings):
    """Soft-target cross-entropy over classes, by a dual encoder's video tower or by VideoMAE's encoder."""

    setup: ClassVar[str] = "avion_core.train.tasks.classification:ClassificationSetup"
    files: ClassVar[tuple[str, ...]] = ("classes",)
    trains: ClassVar[str] = "classes"
    added: ClassVar[tuple[str, ...]] = (*StageSettings.added, "head", "further_labels")

    task: Literal["classification"]
    """What is learned."""
    label: Label = "label"
    """Column to predict; `action` is the pair of verb and noun."""
    further_labels: tuple[Label, ...] = ()
    """Labels with a head each of their own, whose losses are added: [verb, noun] beside `action` in LaViLa,
    where the evaluation takes verbs and nouns from their own heads instead of from the actions."""
    mixup: NotNegative = 0.0
    """Mixup alpha; 0 for none."""
    cutmix: NotNegative = 0.0
    """Cutmix alpha; 0 for none."""
    label_smoothing: Fraction = 0.0
    """Share of the target spread over all classes."""
    head: Literal["linear", "attentive"] = "linear"
    """Classifier: a linear layer on the clip's embedding, or one that first attends to all tokens of the
    video tower (V-JEPA's attentive probe); only the head is trained with `freeze: ["vision.*"]`, for VideoMAE
    `["encoder.*"]`."""
    head_dropout: Fraction = 0.0
    """Dropout before the classifier."""
    patch_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of each clip's patches that a dual encoder's video tower drops in training (FLIP)."""

    @model_validator(mode="after")
    def _each_label_once(self) -> Self:
        if len(set(self.labels)) < len(self.labels):
            raise ValueError(f"further_labels: a label is named twice: {', '.join(self.labels)}; remove one")
        return self

    @model_validator(mode="after")
    def _clips_pair(self) -> Self:
        if (self.mixup or self.cutmix) and self.process_batch_size % 2:
            raise ValueError(
                f"mixup and cutmix pair clips: a process's share of batch_size ({self.process_batch_size}) "
                "must be even"
            )
        return self

    def model_arguments(self) -> dict[str, Any]:
        """Model arguments, except the number of classes."""
        patches = {"patch_dropout": self.patch_dropout} if self.patch_dropout else {}
        head = {"head": self.head} if self.head != "linear" else {}
        return {**super().model_arguments(), "head_dropout": self.head_dropout, **patches, **head}

    def class_arguments(self, count: Callable[[str], int]) -> dict[str, Any]:
        """Arguments for building the heads, by the number of classes of each label."""
        further = {"further_classes": {label: count(label) for label in self.further_labels}}
        return {**super().class_arguments(count), **(further if self.further_labels else {})}

    @property
    def predicts(self) -> str:
        """The predicted label."""
        return self.label

    @property
    def labels(self) -> tuple[str, ...]:
        """The predicted label and the further ones."""
        return (self.label, *self.further_labels)


class ReconstructionStage(StageSettings):
    """Masked pixels, by VideoMAE."""

    title: ClassVar[str] = "masked reconstruction"
    setup: ClassVar[str] = "avion_core.train.tasks.reconstruction:ReconstructionSetup"
    trains: ClassVar[str] = "pixels"
    pretrains: ClassVar[bool] = True

    task: Literal["reconstruction"]
    """What is learned."""
    mask_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.9
    """Share of masked tubes."""
    target_epsilon: Positive = 1e-6
    """Added to a tubelet's standard deviation, of pixels on 0…255, before targets are divided by it: 1e-6 in
    AVION; VideoMAE's original adds 1e-6 on 0…1, which is 2.55e-4 here."""
    decoder_mask_ratio: Annotated[float, Field(ge=0, lt=1, multiple_of=0.25)] = 0.0
    """Share of masked tubelets that are not predicted (VideoMAE V2: 0.5); 0 for none."""

    def model_arguments(self) -> dict[str, Any]:
        """Arguments for building the model."""
        return {**super().model_arguments(), "decoder_mask_ratio": self.decoder_mask_ratio}

    def dry_run_arguments(self) -> dict[str, Any]:
        """The share of masked tubes."""
        return {"mask_ratio": self.mask_ratio}


class CaptioningStage(StageSettings):
    """Next-token prediction of narrations, by a narrator; its video tower is frozen."""

    setup: ClassVar[str] = "avion_core.train.tasks.captioning:CaptioningSetup"
    trains: ClassVar[str] = "texts"
    pretrains: ClassVar[bool] = True
    reads_narrations: ClassVar[bool] = True

    task: Literal["captioning"]
    """What is learned."""
    narrations: Annotated[tuple[Literal["human", "rephrased"], ...], Field(min_length=1)] = ("human",)
    """Clip tables, joined: one of each row's texts is drawn at random."""
    freeze_language_model: bool = False
    """Whether only the pooling and the gated cross-attention are trained (LaViLa, with GPT-2's weights)."""
    text_only: bool = False
    """Whether only the language model is trained, without the clips, as a baseline."""
    text_dropout: Fraction = 0.1
    """Dropout of the language model's embedding and residual branches; 0.1 in GPT-2."""
    loss_mean: Literal["tokens", "places"] = "tokens"
    """What the loss is averaged over: the tokens of the texts, or as in LaViLa all places of texts of full
    length, where padding has no loss, so that gradients are smaller by the share of padding."""

    @model_validator(mode="after")
    def _something_is_trained(self) -> Self:
        if self.drop_path:
            raise ValueError(
                "drop_path does not go with captioning, whose video tower is frozen; set it to 0"
            )
        if self.text_only and self.freeze_language_model:
            raise ValueError("text_only and freeze_language_model leave nothing to train; set one of them")
        return self

    def model_arguments(self) -> dict[str, Any]:
        """Arguments for building the model."""
        sizes = {"frames": self.frames, "image_size_px": self.image_size_px}
        frozen = {name: getattr(self, name) for name in ("freeze_language_model", "text_only")}
        return {**sizes, "dropout": self.text_dropout, **frozen}

    def check_in_run(self) -> None:
        """Raise ValueError for a frozen language model that starts from nothing."""
        super().check_in_run()
        if self.freeze_language_model and not (self.start or self.start_weights):
            raise ValueError(
                "freeze_language_model: the language model starts from nothing and would stay random; start "
                "from a narrator (start or start_weights), or set it to false"
            )

    @property
    def sees_clips(self) -> bool:
        """Not with `text_only`."""
        return not self.text_only

    @property
    def clip_tables(self) -> tuple[str, ...]:
        """Clip tables that the training joins."""
        return self.narrations


STAGE_TASKS.register("contrastive", ContrastiveStage)
STAGE_TASKS.register("relevancy", RelevancyStage)
STAGE_TASKS.register("classification", ClassificationStage)
STAGE_TASKS.register("reconstruction", ReconstructionStage)
STAGE_TASKS.register("captioning", CaptioningStage)
