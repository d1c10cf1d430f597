"""Training stages: one recipe each, and the losses that their tasks choose from."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from avion_core.config.base import Count, Fraction, Name, NotNegative, Positive
from avion_core.config.jobs import MACHINE_SETTINGS, ReadingJob

OPEN_CLIP = "open_clip:"
"""Prefix that marks an open_clip model rather than a file."""

LOSSES: dict[str, dict[str, dict[str, Any]]] = {
    "contrastive": {
        "info_nce": {"temperature": 0.07, "learn_temperature": False},
        "sigmoid": {"temperature": 0.1, "learn_temperature": True, "logit_bias": -10.0},
    },
    "relevancy": {
        "symmetric_multi_similarity": {"margin": 0.6, "relaxation": 0.1},
        "max_margin": {"margin": 0.2},
        "adaptive_max_margin": {"margin": 0.4},
    },
}
"""Losses that a task may choose from, the default first, each with its own settings as published (AVION,
arXiv 2309.16669; SigLIP, arXiv 2303.15343; EPIC-KITCHENS-100 MIR; SMS, arXiv 2406.12256)."""
LOSS_SETTINGS = sorted({name for task in LOSSES.values() for values in task.values() for name in values})
"""Settings that only some losses have."""


class StageSettings(ReadingJob):
    """One training stage: task, data, model, start weights and recipe. Rates and batch sizes are global."""

    task: Literal["contrastive", "relevancy", "classification", "reconstruction"]
    """Clips against narrations, ranking by relevancy, soft-target cross-entropy, or masked pixels."""
    dataset: Name
    """Data set whose training split is used."""
    narrations: Annotated[tuple[Literal["human", "rephrased"], ...], Field(min_length=1)] = ("human",)
    """Clip tables of contrastive training, joined: one of each row's texts is drawn at random."""
    label: Literal["action", "verb", "noun", "label"] = "label"
    """Column that classification predicts; `action` is the pair of verb and noun."""
    model: str
    """Architecture, a file in avion_core/models/architectures."""
    start: str | None = None
    """Stage of the same run whose weights are the start; null for a fresh model."""
    start_weights: str | None = None
    """Third-party weights to start from: a `.pt` or `.safetensors` file, or `open_clip:<model>/<tag>`, such
    as open_clip:ViT-B-16/openai, which `snakemake weights` downloads; `docs/models.md` lists what is read."""
    start_weights_key: str | None = None
    """Entry of that file with the weights, needed where it holds several sets, such as `model` and `ema`;
    null for the only one."""
    start_fresh: tuple[str, ...] = ()
    """Weights (fnmatch patterns) to reinitialise even if the checkpoint has them."""
    waive_missing: tuple[str, ...] = ()
    """Weights (fnmatch patterns) that the checkpoint may lack; they are initialised."""
    waive_unexpected: tuple[str, ...] = ()
    """Weights (fnmatch patterns) of the start that this model has no use for."""

    frames: Count = 4
    """Frames a clip."""
    sampling: Literal["segments", "window", "spread_window", "jittered_window"] = "segments"
    """`segments`: one frame out of each of equal parts; `window`: every `stride`-th frame; in training also
    `spread_window`: evenly over `frames` times `stride` frames, the last included (VideoMAE's fine-tuning),
    or `jittered_window`: each frame 0 to `stride` - 1 later, short clips repeated (AVION's VideoMAE)."""
    stride: Count = 4
    """Distance of a window's frames, at the chunks' frame rate."""
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
    """How RandAugment samples pixels that it moves: bilinear in AVION, bicubic in VideoMAE."""
    rand_augment_whole_frame: bool = False
    """RandAugment before the crop, on whole frames (VideoMAE), instead of after it (AVION); reads slower."""
    random_erasing: Fraction = 0.0
    """Probability that a box of the clip is erased."""
    mixup: NotNegative = 0.0
    """Mixup alpha; 0 for none."""
    cutmix: NotNegative = 0.0
    """Cutmix alpha; 0 for none."""
    label_smoothing: Fraction = 0.0
    """Share of the target spread over all classes."""

    epochs: Annotated[int, Field(ge=0)] = 5
    """Passes over the clips; 0 publishes the start weights as they are."""
    batch_size: Count = 256
    """Clips a step over all processes."""
    optimizer: Literal["adamw", "sgd", "lion"] = "adamw"
    """Update rule."""
    learning_rate: Positive = 3e-5
    """Peak rate."""
    learning_rate_batch: Count | None = None
    """Reference batch size; rates scale by batch_size / this. null for no scaling."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Course of the rate after warm-up."""
    warmup_epochs: NotNegative = 0.0
    """Epochs of linear rise."""
    warmup_start_rate: NotNegative = 1e-6
    """Rate at step 0 when there is a warm-up."""
    final_rate: NotNegative = 1e-5
    """Rate at the end of the cosine."""
    weight_decay: NotNegative = 0.01
    """Decay of weights with two or more dimensions: decoupled in AdamW and Lion, in the gradient in SGD."""
    no_weight_decay: tuple[str, ...] = ()
    """Further weights (fnmatch patterns) without decay: mask_token in VideoMAE's original, none in AVION."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    """AdamW's and Lion's averages."""
    momentum: Fraction = 0.9
    """SGD's momentum."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Factor on the rate for each layer further from the head."""
    gradient_clip: Positive | None = None
    """Largest gradient norm; null for no clipping."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
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
    head_dropout: Fraction = 0.0
    """Dropout before the classifier."""
    loss: (
        Literal["info_nce", "sigmoid", "symmetric_multi_similarity", "max_margin", "adaptive_max_margin"]
        | None
    ) = None
    """The contrastive task's: `info_nce` or `sigmoid` (SigLIP). The relevancy task's:
    `symmetric_multi_similarity`, `max_margin` (AVION's) or `adaptive_max_margin`. Null for the first."""
    negatives: Literal["global", "local"] = "global"
    """What a contrastive or relevancy loss compares with: the clips and texts of all processes, or of each
    process alone, so that `nodes` and `processes` change the result."""
    temperature: Positive | None = None
    """Contrastive temperature of a model that begins fresh; null for the published one: info_nce 0.07,
    sigmoid 0.1."""
    learn_temperature: bool | None = None
    """Whether the temperature is trained; null: frozen for info_nce, trained for sigmoid, as published."""
    logit_bias: float | None = None
    """Sigmoid loss's trained bias where it begins fresh; null for the published -10.0."""
    margin: NotNegative | None = None
    """Margin of the relevancy task's loss; null for the published one: symmetric multi-similarity 0.6, max
    margin 0.2, adaptive 0.4."""
    relaxation: NotNegative | None = None
    """Symmetric multi-similarity's tau, by which equally relevant pairs may differ; null for the published
    0.1."""
    min_relevancy: Fraction = 0.1
    """A relevancy task's sentence is drawn from those above this."""
    mask_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.9
    """Share of the tubes that reconstruction hides."""
    target_epsilon: Positive = 1e-6
    """Added to a tubelet's standard deviation, of pixels on 0…255, before reconstruction targets are divided
    by it: 1e-6 in AVION; VideoMAE's original adds 1e-6 on 0…1, which is 2.55e-4 here."""
    decoder_mask_ratio: Annotated[float, Field(ge=0, lt=1, multiple_of=0.25)] = 0.0
    """Share of the hidden tubelets that reconstruction does not predict (VideoMAE V2: 0.5); 0 for none."""
    patch_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of each clip's patches that a dual encoder's video tower leaves out in training (FLIP)."""

    nodes: Count = 1
    """Machines of the job; more than one needs Slurm."""
    processes: Count = 1
    """Processes on each node, started by torchrun; with `gpus` one of them each."""
    gpus: Annotated[int, Field(ge=0)] = 0
    """GPUs the job asks for on each node; 0 trains on the CPU."""
    threads: Count = 1
    """CPU threads a process."""
    loader_workers: Annotated[int, Field(ge=0)] = 0
    """Processes that decode, per training process; 0 decodes in the training process."""
    attention: Literal["sdpa", "flash"] = "sdpa"
    """Attention kernels: torch's own, or the package flash-attn on a GPU in half precision."""
    gradient_checkpointing: bool = False
    """Compute each block a second time in the backward pass instead of keeping it in memory."""
    compile: bool = False
    """Run the blocks through torch.compile, which needs a C++ compiler."""
    memory_mb: Count = 2000
    """Memory the job asks the scheduler for, on each node."""
    runtime_minutes: Count = 60
    """Time limit the job asks the scheduler for, doubled at each further attempt."""
    log_every_steps: Count = 10
    """Steps between log lines."""
    wandb_project: str | None = None
    """Weights & Biases project that gets the log's lines too; the package `wandb` must be installed."""
    peak_tflops: Positive | None = None
    """Peak arithmetic of one device, for the logged utilisation; null looks GPUs up, in bf16 and fp16."""
    checkpoint_every_steps: Count = 100
    """Steps between resumable checkpoints."""
    checkpoint_every_minutes: Positive | None = 10.0
    """Also checkpoint after this many minutes; null for steps alone."""
    accumulation_steps: Count = 1
    """Micro-batches that each process makes of its share of `batch_size`, for less memory: the gradient is
    that of the whole batch, contrastive negatives included. Mixup mixes the clips of the whole share."""
    shard_optimizer: bool = False
    """Each process keeps a part of the optimiser's state (ZeRO stage 1) instead of all of it."""

    @model_validator(mode="after")
    def _consistent(self) -> StageSettings:
        if self.gpus and self.gpus != self.processes:
            raise ValueError(f"gpus ({self.gpus}) must be 0 or equal processes ({self.processes})")
        world = f"nodes times processes ({self.nodes} x {self.processes})"
        if self.batch_size % self.world_size:
            raise ValueError(f"batch_size ({self.batch_size}) must divide among {world}")
        share = self.batch_size // self.world_size
        if share % self.accumulation_steps:
            raise ValueError(
                f"accumulation_steps ({self.accumulation_steps}) must divide each process's share of the "
                f"batch ({share}: batch_size {self.batch_size} over {world})"
            )
        if self.best_metric and not self.validate_with:
            raise ValueError(f"best_metric ({self.best_metric}) needs validate_with, an evaluation's name")
        if self.crop_scale[0] > self.crop_scale[1] or self.crop_scale[0] == 0:
            raise ValueError("crop_scale is (smallest, largest) share of the area, both above 0")
        if self.task == "classification" and (self.mixup or self.cutmix) and share % 2:
            raise ValueError(
                f"mixup and cutmix pair clips: a process's share of batch_size ({share}) must be even"
            )
        if self.start and self.start_weights:
            raise ValueError("start and start_weights exclude each other; set one of them to null")
        if self.decoder_mask_ratio and self.task != "reconstruction":
            raise ValueError(
                f"decoder_mask_ratio does not go with the task '{self.task}', which has no decoder"
            )
        return self

    @model_validator(mode="after")
    def _loss_fits(self) -> StageSettings:
        losses = LOSSES.get(self.task, {})
        if self.loss is not None and self.loss not in losses:
            choice = f"it has: {', '.join(losses)}" if losses else "it has but one, so leave loss out"
            raise ValueError(f"the task '{self.task}' has no loss '{self.loss}'; {choice}")
        for name in LOSS_SETTINGS:
            if getattr(self, name) is not None and name not in self.loss_values:
                which = f" and the loss '{self.loss_name}', which takes {', '.join(self.loss_values)}"
                raise ValueError(f"{name} does not go with the task '{self.task}'{which if losses else ''}")
        if not losses and self.negatives == "local":
            raise ValueError(f"negatives: the task '{self.task}' compares no clips")
        compared = self.batch_size // (self.world_size if self.negatives == "local" else 1)
        if losses and compared < 2:
            raise ValueError("a loss that compares clips needs at least two at once; set batch_size higher")
        return self

    def recipe(self) -> dict[str, Any]:
        """The settings that decide the result; with local negatives the number of processes is one."""
        world = {"nodes", "processes"} if self.negatives == "local" else set()
        return self.model_dump(mode="json", exclude=set(MACHINE_SETTINGS - world))

    @property
    def world_size(self) -> int:
        """Processes of the whole job."""
        return self.nodes * self.processes

    @property
    def loss_name(self) -> str:
        """The chosen loss or the task's first; the task's name where there is no choice."""
        return self.loss or next(iter(LOSSES.get(self.task, {self.task: {}})))

    @property
    def loss_values(self) -> dict[str, Any]:
        """The loss's own settings, those left out as published."""
        published = LOSSES.get(self.task, {}).get(self.loss_name, {})
        given = {name: getattr(self, name) for name in published}
        return {name: published[name] if value is None else value for name, value in given.items()}

    @property
    def start_file(self) -> str | None:
        """The file of `start_weights`; None where there is none or it is open_clip's."""
        downloaded = self.start_weights is None or self.start_weights.startswith(OPEN_CLIP)
        return None if downloaded else self.start_weights
