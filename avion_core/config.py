"""Every setting of the pipeline: typed, frozen, and refused by name when unknown or out of range.

`config.yaml` holds the demo; a file given with `--configfile` is laid over it (`configfile.lay_over`).
Units are in the names. The JSON schema and `docs/settings.md` are generated from the classes below
(`avion_core.settings_page`), so this file is the one place that explains a setting.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_]*$")]


def _folder(path: str) -> str:
    """A folder's path that Snakemake allows in a rule: no trailing slash, no braces, no line breaks."""
    if not path.strip() or set(path) & set("{}\n"):
        raise ValueError(
            "name a folder without '{', '}' and line breaks, which Snakemake does not allow in a path"
        )
    return str(Path(path).expanduser())


def _address(url: str) -> str:
    """A server's address. What may hold a key or password is refused, as addresses are shown and stored."""
    if "@" in url or "?" in url or "#" in url:
        raise ValueError(
            "give the address alone, without user, password, '?' and '#': it is shown and stored; the key is "
            "read from the environment variable OPENAI_API_KEY"
        )
    return url


Folder = Annotated[str, AfterValidator(_folder)]

Layout = Literal["ego4d", "ek100", "kinetics", "folder"]
MACHINE_SETTINGS = frozenset(
    {
        "nodes",
        "processes",
        "gpus",
        "threads",
        "loader_workers",
        "memory_mb",
        "runtime_minutes",
        "log_every_steps",
        "checkpoint_every_steps",
        "checkpoint_every_minutes",
        "accumulation_steps",
        "shard_optimizer",
        "wandb_project",
        "peak_tflops",
        "clip_timeout_seconds",
        "max_bad_share",
        "attention",
        "compile",
        "gradient_checkpointing",
    }
)
"""Settings of stages and evaluations that say how a job runs, not what it computes: changing one repeats
nothing."""
PROVIDER_TEXT_SETTINGS = frozenset({"model", "temperature"})
"""Settings of the section `openai` that decide a text. The others only say how a server is asked: changing
one repeats no request and retrains nothing."""


OPEN_CLIP = "open_clip:"
"""Prefix that marks an open_clip model rather than a file."""

VALIDATES = {
    "contrastive": ("retrieval", "multiple_choice"),
    "relevancy": ("retrieval", "multiple_choice"),
    "classification": ("recognition",),
    "reconstruction": (),
}
"""Kinds of evaluation that a task's model can be validated by."""


def figure_names(kind: str, label: str = "") -> list[str]:
    """Figures of an evaluation of this kind, of a recognition by the label it predicts."""
    if kind == "retrieval":
        directions = ("video_to_text", "text_to_video", "mean")
        return [f"{figure}.{direction}" for figure in ("mAP", "nDCG") for direction in directions]
    if kind == "multiple_choice":
        return ["inter_video", "intra_video"]
    if label == "action":
        return [
            f"{name}_{figure}"
            for figure in ("top1", "class_mean_top1")
            for name in ("verb", "noun", "action")
        ]
    return ["top1", "top5", "class_mean_top1"]


NEW_ENTRY: dict[Any, tuple[str, ...]] = {
    "datasets": ("layout", "source"),
    "stages": ("task",),
    "evaluations": ("kind",),
    "runs": ("title",),
}
"""Settings with which an experiment's entry of these sections is a new one (`configfile.lay_over`)."""


class SettingsError(ValueError):
    """A setting is unknown, missing or out of range. The message names it and the way out."""


class Section(BaseModel):
    """Base of all settings: unknown names are errors, values cannot change after loading."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _no_truth_value_for_a_number(cls, raw: Any) -> Any:
        """YAML reads `yes` and `on` as true, which would count as 1."""
        for name, value in raw.items() if isinstance(raw, Mapping) else ():
            field = cls.model_fields.get(name)
            if field and isinstance(value, bool) and field.annotation in (int, float):
                raise ValueError(f"{name}: a number is expected (got {str(value).lower()})")
        return raw


CHUNK_FORMATS: dict[str, dict[str, Any]] = {
    "random_access": {},
    "avion": {
        "keyframe_interval_frames": 250,
        "b_frames": 3,
        "skippable_frames": False,
        "crf": 23.0,
        "preset": "medium",
        "tune": "none",
    },
    "all_intra": {"keyframe_interval_frames": 1, "b_frames": 0, "crf": 27.0},
}
"""What `transcode.format` sets where the settings below it are left out."""


class TranscodeSettings(Section):
    """How source videos become chunks."""

    format: Literal["random_access", "avion", "all_intra"] = "random_access"
    """Defaults of the settings below: chunks made for reading single frames; AVION's, by x264's own
    defaults, small and slow to read; or every frame a keyframe, fastest to read and largest."""
    chunk_seconds: Positive = 15.0
    """Length of a chunk in seconds."""
    short_side_px: Annotated[int, Field(ge=16, multiple_of=2)] = 288
    """The frame's shorter side after scaling; the other follows, rounded to an even number."""
    fps: Positive | None = 30.0
    """Constant frame rate of every chunk, frames per second; null keeps each video's own rate (the average of
    a varying one), so that windows count the frames of the source."""
    keyframe_interval_frames: Count = 14
    """A keyframe every so many frames: smaller is faster to read and larger on disk."""
    b_frames: Annotated[int, Field(ge=0, le=16)] = 13
    """B frames between two references, at most."""
    skippable_frames: bool = True
    """Nothing refers to B frames, so that the decoder skips those not asked for, and they refer across
    keyframes, so that few other frames are needed; false leaves references and scene cuts to x264, which
    makes smaller files."""
    crf: Annotated[float, Field(ge=0, le=51)] = 19.5
    """x264 quality: lower is better and larger."""
    preset: Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow"] = "slow"
    """x264 effort."""
    tune: Literal["psnr,fastdecode", "fastdecode", "psnr", "none"] = "psnr,fastdecode"
    """x264 tuning: `fastdecode` leaves out the costly filters, `psnr` what only pleases the eye."""
    ffmpeg_threads: Count = 1
    """Threads of one FFmpeg process; shards process videos in parallel."""

    @model_validator(mode="before")
    @classmethod
    def _format_fills_in(cls, raw: Any) -> Any:
        if not isinstance(raw, Mapping):
            return raw
        return {**CHUNK_FORMATS.get(str(raw.get("format")), {}), **raw}


class FolderSource(Section):
    """Your own videos."""

    videos: str
    """Folder that holds the videos named in the CSV."""
    narrations: str
    """CSV with the columns `video,start,end,text` and optionally `split` (train or validation);
    times in seconds or hh:mm:ss."""
    validation_fraction: Fraction = 0.2
    """Share of the videos held out when the CSV has no `split` column."""


class Ego4DSource(Section):
    """What the official `ego4d` command downloads."""

    version: Literal["v1", "v2", "v2_1"] = "v2_1"
    """Release of the data set."""
    aws_profile: str = "default"
    """Named AWS profile that holds the licence's keys (they expire after 14 days)."""
    videos: Literal["full_scale", "video_540ss"] = "full_scale"
    """Which rendition to fetch."""
    egomcq: str | None = None
    """Path of EgoMCQ's `egomcq.json`, which Ego4D does not distribute."""
    benchmarks: tuple[str, ...] = ()
    """Fetch only videos of these benchmarks; empty for all."""


class LocalSource(Section):
    """Official files that are on disk already, in their owners' layout."""

    path: str
    """Folder with the layout that `docs/` describes for this data set."""


class DatasetSettings(Section):
    """One data set: the layout its files have, where they come from, how it is transcoded."""

    layout: Layout
    """Annotation formats and file layout."""
    source: Literal["toy_kitchen", "ego4d", "local", "folder"]
    """`toy_kitchen` renders it, `ego4d` downloads it, `local` and `folder` find it on disk."""
    folder: FolderSource | None = None
    """Needed by the source `folder`."""
    ego4d: Ego4DSource = Ego4DSource()
    """Used by the source `ego4d`."""
    local: LocalSource | None = None
    """Needed by the source `local`."""
    allow_missing_ego4d_json: bool = False
    """Layout `ego4d`: continue without `ego4d.json`, which lists the benchmarks' validation and test videos.
    They are then trained on, and zero-shot figures come out too high."""
    transcode: TranscodeSettings = TranscodeSettings()
    """Chunk settings; what is left out comes from the section `transcode`."""
    class_lists: str | None = None
    """Data set (layout ek100) whose verb and noun class lists give the provider `lexicon` further synonyms
    for this one's narrations."""

    def source_json(self) -> str:
        """What decides the raw files, without transcoding and narration, as JSON."""
        return self.model_dump_json(exclude={"transcode", "class_lists"})

    def annotation_recipe(self) -> str:
        """What decides the clip tables beside the files themselves, as JSON."""
        elsewhere: Any = {
            "transcode": True,
            "source": True,
            "ego4d": True,
            "local": True,
            "class_lists": True,
        }
        return self.model_dump_json(exclude={**elsewhere, "folder": {"videos", "narrations"}})

    @model_validator(mode="after")
    def _source_has_its_section(self) -> DatasetSettings:
        if self.source in ("folder", "local") and getattr(self, self.source) is None:
            raise ValueError(f"source '{self.source}' needs a section '{self.source}'")
        if (self.source == "folder") != (self.layout == "folder"):
            raise ValueError("the source 'folder' and the layout 'folder' go together")
        if self.source == "ego4d" and self.layout != "ego4d":
            raise ValueError("the source 'ego4d' has the layout 'ego4d'")
        return self


class ToyKitchenSettings(Section):
    """The built-in generator of first-person-like videos."""

    seed: Annotated[int, Field(ge=0)] = 0
    """Decides every scene, sentence and pixel."""
    short_side_px: Annotated[int, Field(ge=64, multiple_of=2)] = 144
    """Shorter side of most rendered videos."""
    ego4d_videos: Count = 40
    """Videos with free narrations, for pretraining."""
    ego4d_benchmark_videos: Count = 5
    """Videos of the EgoMCQ questions, left out of pretraining."""
    ek100_train_videos: Count = 56
    """Videos of the EPIC-KITCHENS training split."""
    ek100_validation_videos: Count = 10
    """Videos of the EPIC-KITCHENS validation split."""
    video_seconds: tuple[Positive, Positive] = (20.0, 60.0)
    """Shortest and longest Ego4D and EPIC-KITCHENS video."""
    kinetics_clips_per_class: tuple[Count, Count] = (16, 8)
    """Trimmed clips of each Kinetics class in train and val."""
    kinetics_clip_seconds: Positive = 4.0
    """Length of a Kinetics clip."""


class RephraseSettings(Section):
    """How a provider rewrites narrations."""

    texts_per_narration: Annotated[int, Field(ge=1, le=20)] = 4
    """New sentences kept for each distinct narration."""
    instruction: str = (
        "You rewrite short descriptions of what a person who wears a camera does with their hands. "
        "'#C C' stands for that person: where a sentence starts with it, start yours with it too, in the "
        "third person, such as '#C C picks up the red cup'. Say the same action with the same objects, "
        "colours, hands and places in other words: vary the verb, the name of the object and the form of "
        "the sentence, add nothing that is not there and turn nothing into its opposite. Make one version "
        "a plain instruction without '#C C', such as 'pick up the red cup'. No punctuation at the end."
    )
    """What a language model is told; how many sentences and in which format is added to it."""


class OpenAISettings(Section):
    """An OpenAI-compatible server; its key comes from the environment variable OPENAI_API_KEY."""

    base_url: Annotated[str, AfterValidator(_address)] | None = None
    """Address of the server, without a key or password; null for OpenAI's own."""
    model: str = "gpt-4o-mini"
    """Model name as the server knows it."""
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """Sampling temperature; null for the server's own. Some models take no other."""
    max_tokens_per_reply: Count = 200
    """Bound on the text of one reply."""
    max_reasoning_tokens: Annotated[int, Field(ge=0)] = 2000
    """Room for reasoning on top of that, for models that reason."""
    schema_bound: bool = True
    """Bind replies to a JSON schema if the server can: about half the tokens, and nothing to misread."""
    narrations_per_request: Count = 1
    """Distinct narrations put into one request."""
    parallel_requests: Count = 4
    """Requests in flight at once, per shard."""
    timeout_seconds: Positive = 60.0
    """Bound on one try, to the last byte of the reply."""
    max_attempts: Count = 5
    """Tries of one narration before it is given up; waiting for a server that is away is none. Raise it to
    have those given up asked again."""
    outage_minutes: NotNegative = 10.0
    """How long a server may be away, busy or restarting before the run stops."""
    first_wait_seconds: Positive = 1.0
    """Wait after a failed try; each further one is twice as long, and at least what the server asks."""
    usd_per_million_input_tokens: NotNegative = 0.15
    """Price, for the estimate and the bill."""
    usd_per_million_output_tokens: NotNegative = 0.60
    """Price, for the estimate and the bill."""
    max_usd: NotNegative = 10.0
    """Narrating a data set stops before its requests, those of earlier runs among them, would cost more."""

    @property
    def longest_reply_tokens(self) -> int:
        """What a reply is limited to at most, its reasoning included."""
        return self.max_tokens_per_reply + self.max_reasoning_tokens


class NarrateSettings(Section):
    """Language-model text for the pretraining clips."""

    provider: Literal["lexicon", "openai"] = "lexicon"
    """`lexicon`: synonyms from a small curated table and a data set's `class_lists`, without a network.
    `openai`: any compatible server."""
    max_failed_share: Fraction = 0.5
    """A language model that gives no usable sentence for more than this share of the narrations ends the run,
    after few requests where the share is clear by then. Narrations that cannot be sent do not count."""
    rephrase: RephraseSettings = RephraseSettings()
    openai: OpenAISettings = OpenAISettings()

    def recipe(self) -> dict[str, Any]:
        """The settings that decide the texts: the provider's own, and the prompt where there is one."""
        rephrase = self.rephrase.model_dump(mode="json")
        if self.provider == "lexicon":
            del rephrase["instruction"]
            return {"provider": "lexicon", "rephrase": rephrase}
        openai = self.openai.model_dump(mode="json", include=set(PROVIDER_TEXT_SETTINGS))
        return {"provider": "openai", "rephrase": rephrase, "openai": openai}

    def machine(self) -> dict[str, Any]:
        """The other settings, which say how a server is asked and when a run is given up."""
        openai = self.openai.model_dump(mode="json", exclude=set(PROVIDER_TEXT_SETTINGS))
        return {"max_failed_share": self.max_failed_share, "openai": openai}

    @classmethod
    def join(cls, recipe: Mapping[str, Any], machine: Mapping[str, Any]) -> NarrateSettings:
        """The settings that `recipe` and `machine` were made of, as far as they are needed."""
        openai = {**recipe.get("openai", {}), **machine.get("openai", {})}
        return cls.model_validate({**recipe, **machine, "openai": openai})


class ReadingJob(Section):
    """What a stage and an evaluation have in common: a job that reads clips."""

    clip_timeout_seconds: Positive = 60.0
    """A clip that takes longer to read counts as one that cannot be decoded."""
    max_bad_share: Fraction = 0.05
    """The job stops when more than this share of the clips cannot be decoded."""

    def recipe(self) -> dict[str, Any]:
        """The settings that decide the result."""
        return self.model_dump(mode="json", exclude=set(MACHINE_SETTINGS))

    def machine(self) -> dict[str, Any]:
        """The settings that only say how the job runs."""
        return self.model_dump(mode="json", include=set(MACHINE_SETTINGS))


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


class EvaluationSettings(ReadingJob):
    """One evaluation of a trained stage."""

    kind: Literal["retrieval", "recognition", "multiple_choice"]
    """MIR, top-k classification, or EgoMCQ."""
    dataset: Name
    """Data set whose evaluation split is used."""
    stage: Name
    """Stage whose weights are evaluated."""
    frames: Count = 4
    """Frames a clip."""
    clips: Count = 1
    """Temporal views of a clip, averaged."""
    crops: Literal[1, 3] = 1
    """Spatial views of a clip, averaged."""
    batch_size: Count = 64
    """Clip views at once."""
    memory_mb: Count = 2000
    """Memory the job asks the scheduler for."""
    threads: Count = 1
    """CPU threads."""
    gpus: Literal[0, 1] = 0
    """GPUs the job asks for."""


class RunSettings(Section):
    """One line of the report: the stages it trains, in order, and what is measured."""

    title: str
    """Name in the report."""
    stages: Annotated[dict[Name, dict[str, Any]], Field(min_length=1)]
    """Stages by name, each with what differs from the section `stages`."""
    evaluations: tuple[Name, ...]
    """Evaluations by name."""


class Settings(Section):
    """The whole configuration."""

    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of every training run."""
    data_dir: Folder = "data"
    """Where data sets are kept."""
    results_dir: Folder = "results"
    """Where runs and the report are written."""
    shards: Count = 2
    """Fixed number of jobs that videos and narrations are divided among."""
    transcode_minutes_per_gb: Positive = 30.0
    """Time limit of a transcoding shard under a scheduler: two hours, plus this many minutes per gigabyte of
    its videos; doubled at each further attempt."""
    preflight_clips: Count = 200
    """Clips of each table that the target `preflight` decodes."""
    selected_runs: Annotated[tuple[Name, ...], Field(min_length=1)]
    """Runs that the report shows, and so the runs that are made."""
    toy_kitchen: ToyKitchenSettings = ToyKitchenSettings()
    transcode: TranscodeSettings = TranscodeSettings()
    """Chunk settings of data sets that have none of their own."""
    datasets: dict[Name, DatasetSettings]
    narrate: NarrateSettings = NarrateSettings()
    stages: dict[Name, StageSettings]
    """Training recipes by name."""
    evaluations: dict[Name, EvaluationSettings]
    """Evaluations by name."""
    runs: dict[Name, RunSettings]
    """Runs by name."""

    def stage(self, run: str, stage: str) -> StageSettings:
        """The recipe of one stage of one run: the common one with the run's differences."""
        common = self.stages[stage].model_dump()
        return StageSettings.model_validate({**common, **self.runs[run].stages[stage]})

    @model_validator(mode="before")
    @classmethod
    def _datasets_inherit_transcode(cls, raw: Any) -> Any:
        if not (isinstance(raw, Mapping) and isinstance(raw.get("datasets"), Mapping)):
            return raw
        common = raw.get("transcode") or {}
        datasets = dict(raw["datasets"])
        for name, entry in raw["datasets"].items():
            own = entry.get("transcode", {}) if isinstance(entry, Mapping) else None
            if isinstance(own, Mapping) and isinstance(common, Mapping):
                datasets[name] = {**entry, "transcode": {**common, **own}}
        return {**raw, "datasets": datasets}

    @model_validator(mode="after")
    def _names_refer(self) -> Settings:
        known(self.selected_runs, self.runs, "selected_runs")
        if len(set(self.selected_runs)) < len(self.selected_runs):
            raise ValueError("selected_runs: a run is named twice; remove one")
        if Path(self.data_dir).absolute() == Path(self.results_dir).absolute():
            raise ValueError("data_dir and results_dir are the same folder; name two")
        for name in self.stages.keys() & self.evaluations.keys():
            raise ValueError(f"evaluations.{name}: '{name}' is a stage too, and both would share a folder")
        for name in {"logs", "report"} & self.runs.keys():
            raise ValueError(f"runs.{name}: '{name}' is a folder of results already; choose another name")
        for name, run in self.runs.items():
            known(run.stages, self.stages, f"runs.{name}.stages")
            known(run.evaluations, self.evaluations, f"runs.{name}.evaluations")
            for stage in run.stages:
                self._check_stage(name, stage)
            self._check_starts(name)
            for evaluation in run.evaluations:
                entry = self.evaluations[evaluation]
                known([entry.stage], run.stages, f"runs.{name}: evaluation '{evaluation}' needs the stage")
                known([entry.dataset], self.datasets, f"evaluations.{evaluation}.dataset")
        for name, dataset in self.datasets.items():
            if dataset.class_lists is not None:
                listed = [other for other, entry in self.datasets.items() if entry.layout == "ek100"]
                known([dataset.class_lists], listed, f"datasets.{name}.class_lists")
        return self

    def _check_stage(self, run: str, stage: str) -> None:
        where = f"runs.{run}.stages.{stage}"
        overrides = self.runs[run].stages[stage] or {}
        known(overrides, StageSettings.model_fields, where)
        try:
            recipe = self.stage(run, stage)
        except ValidationError as error:
            raise ValueError(f"{where}: {_first_problem(error)}") from None
        known([recipe.dataset], self.datasets, f"{where}.dataset")
        if recipe.validate_with is not None:
            self._check_validation(recipe, recipe.validate_with, where)
        if recipe.start is not None:
            known([recipe.start], self.runs[run].stages, f"{where}.start")

    def _check_starts(self, run: str) -> None:
        """Raise ValueError for a stage that starts, by way of others or not, from itself."""
        starts = {name: self.stage(run, name).start for name in self.runs[run].stages}
        for name in starts:
            before = starts[name]
            for _ in starts:
                if before == name:
                    raise ValueError(f"runs.{run}.stages.{name}.start: the stage would start from itself")
                before = starts[before] if before else None

    def _check_validation(self, recipe: StageSettings, name: str, where: str) -> None:
        known([name], self.evaluations, f"{where}.validate_with")
        known([self.evaluations[name].dataset], self.datasets, f"evaluations.{name}.dataset")
        kind = self.evaluations[name].kind
        if kind not in VALIDATES[recipe.task]:
            fits = " or ".join(VALIDATES[recipe.task]) or "nothing"
            raise ValueError(
                f"{where}.validate_with: '{name}' measures {kind}; {recipe.task} is validated by {fits}"
            )
        if recipe.best_metric is not None:
            known([recipe.best_metric], figure_names(kind, recipe.label), f"{where}.best_metric")


def known(names: Iterable[str], among: Iterable[str], where: str) -> None:
    """Raise ValueError for the first of `names` that is not `among` the known ones, with the nearest."""
    choices = list(among)
    for name in names:
        if name not in choices:
            raise ValueError(f"{where}: unknown name '{name}'{_nearest(name, choices)}")


def load_settings(raw: Mapping[str, Any]) -> Settings:
    """Validate a merged configuration (as Snakemake hands it over).

    Raises SettingsError with one line a problem: where, what, and the nearest known name.
    """
    try:
        return Settings.model_validate(raw)
    except ValidationError as error:
        problems = [problem for problem in error.errors() if not _is_inherited(problem, error.errors())]
        lines = [_without_passwords(_explain(problem)) for problem in problems]
        raise SettingsError("config: " + "\nconfig: ".join(lines)) from None


def _without_passwords(text: str) -> str:
    """A text whose addresses have no user, password and values of a query."""
    text = re.sub(r"//[^/@\s'\"]*@", "//***@", text)
    return re.sub(r"([?&][^=&\s'\"]+=)[^&\s'\"]+", r"\1***", text)


def _is_inherited(problem: Any, problems: list[Any]) -> bool:
    """Whether a data set's transcode problem only repeats that of the common section."""
    location = problem["loc"]
    return location[2:3] == ("transcode",) and any(other["loc"] == location[2:] for other in problems)


def _first_problem(error: ValidationError) -> str:
    return _explain(error.errors()[0])


def _explain(problem: Mapping[str, Any]) -> str:
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        name = str(problem["loc"][-1])
        siblings = _fields_at(problem["loc"][:-1])
        return f"unknown setting '{where}'{_nearest(name, siblings)}"
    if problem["type"] == "missing":
        return f"setting '{where}' is missing{_why_missing(problem['loc'], problem['input'])}"
    if problem["type"] in ("tuple_type", "list_type"):
        value = problem["input"]
        write = f"; write [{value}]" if isinstance(value, str) else ""
        return f"{where}: a list is expected{write} (got {value!r})"
    if problem["type"] in ("dict_type", "model_type", "mapping_type"):
        return f"{where}: a mapping is expected, `name: value` (got {problem['input']!r})"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"{where}: {message}" if where else message
    return f"{where}: {message} (got {problem['input']!r})"


def _why_missing(location: tuple[int | str, ...], entry: Mapping[str, Any]) -> str:
    """What an entry that lacks a setting may have been meant to be."""
    if len(location) != 3 or location[0] not in NEW_ENTRY:
        return ""
    marks = [mark for mark in NEW_ENTRY[location[0]] if mark in entry]
    if marks:
        return f"; with its `{marks[0]}` the entry is a new one and takes nothing from config.yaml"
    return (
        f"; no entry is called '{location[1]}' yet: correct the name if it should change another, or give "
        "the file that has it first (`--configfile configs/folder.yaml mine.yaml`)"
    )


def _fields_at(location: tuple[int | str, ...]) -> list[str]:
    """Names of the settings allowed at a location such as ('datasets', 'ego4d', 'transcode')."""
    section: Any = Settings
    for part in location:
        if isinstance(section, type) and issubclass(section, Section):
            field = section.model_fields.get(str(part))
            section = field.annotation if field else None
        else:  # dict[Name, Section]: any key, then the value's type
            section = get_args(section)[1] if get_args(section) else None
        options = [option for option in get_args(section) if option is not type(None)]
        if type(None) in get_args(section) and options:
            section = options[0]
    return list(section.model_fields) if isinstance(section, type) and issubclass(section, Section) else []


def _nearest(name: str, choices: Iterable[str]) -> str:
    choices = list(choices)
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known: {', '.join(choices)}" if choices else ""
