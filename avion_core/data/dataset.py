"""From a row of a clip table to a model's input: frames, and the tokens of one of its texts.

All randomness comes from the generator passed in, so a sample depends only on its row and that generator.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from avion_core.data.augment import (
    Draws,
    draw_erasure,
    draw_operations,
    erase_clip,
    rand_augment,
    rand_augment_clip,
)
from avion_core.data.chunks import ChunkIndex
from avion_core.data.clips import ClipTable
from avion_core.data.device_augment import lacking
from avion_core.data.tokenizer import tokenize
from avion_core.media.crop import Crop, center_crop, multi_scale_crop, random_resized_crop, three_crops
from avion_core.media.decode import Scaler, empty_clip
from avion_core.media.sample import BLACK, Sampling

ChooseText = Callable[[int, np.random.Generator], tuple[int, str]]
"""(row, generator) to (text_id, text)."""
Entries = Callable[[int], Mapping[str, NDArray[Any]]]
"""From a row to further entries of its sample, each of the same shape for all rows."""


@dataclass(frozen=True, kw_only=True)
class View(Sampling):
    """How a model sees a clip: sampling, crop and augmentation."""

    image_size_px: int
    """Side of the square pictures."""
    crop: Literal["random_resized", "multi_scale", "center"]
    """Training crop; evaluation uses the centre or three crops."""
    crop_scale: tuple[float, float]
    """Area range of the random resized crop."""
    horizontal_flip: float
    """Probability of a mirrored clip."""
    rand_augment: str | None
    """timm's policy string."""
    rand_augment_interpolation: str = "bilinear"
    """RandAugment's interpolation."""
    rand_augment_whole_frame: bool = False
    """Whether RandAugment comes before the crop."""
    random_erasing: float
    """Probability of an erased box."""
    augment_on_device: bool = False
    """Whether RandAugment and erasing are only drawn, for `device_augment.augmented` to apply."""
    crops: int = 1
    """Evaluation: spatial views, 1 or 3."""
    training: bool
    """Whether anything is random."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.crops not in (1, 3):
            raise ValueError(f"crops must be 1 or 3, got {self.crops}")
        if self.crop not in ("random_resized", "multi_scale", "center"):
            raise ValueError(f"unknown crop '{self.crop}'; known: random_resized, multi_scale, center")
        if self.augment_on_device and self.rand_augment and self.rand_augment_whole_frame:
            raise ValueError("RandAugment comes before the crop, so the device cannot apply it")


class ClipDataset:
    """Clips of a table seen through one view; with `choose_text`, each with one tokenised text."""

    def __init__(
        self,
        clips: ClipTable,
        chunks: ChunkIndex,
        view: View,
        *,
        choose_text: ChooseText | None = None,
        entries: Entries | None = None,
        context_length: int = 77,
        tokenizer: str = "clip",
        backend: str = "pyav",
    ) -> None:
        self.clips, self.chunks, self.view = clips, chunks, view
        self.has_texts = choose_text is not None
        self._choose_text, self._entries, self._backend = choose_text, entries, backend
        self._context_length, self._tokenizer = context_length, tokenizer
        # Import slow modules and reject bad policies before any worker or batch.
        if choose_text is not None:
            self._tokens("")
        if view.rand_augment is not None:
            rand_augment(view.rand_augment, view.image_size_px, view.rand_augment_interpolation)
            if view.augment_on_device and (names := lacking(view.rand_augment)):
                raise ValueError(
                    f"rand_augment: the device cannot apply {', '.join(names)} of the policy "
                    f"'{view.rand_augment}'; set augment_on: loader"
                )

    def __len__(self) -> int:
        return len(self.clips)

    def _tokens(self, text: str) -> Any:
        return tokenize([text], self._context_length, tokenizer=self._tokenizer)[0]

    def longest_clip(self) -> int:
        """Frames of the longest clip; 0 for videos without chunks."""
        longest = 0.0
        for batch in self.clips.arrow().to_batches():
            coded = batch["video_id"].dictionary_encode()
            videos = coded.dictionary.to_pylist()
            fps = np.array(
                [float(self.chunks.fps(name)) if self.chunks.has(name) else 0.0 for name in videos]
            )
            seconds = batch["end_s"].to_numpy() - batch["start_s"].to_numpy()
            longest = max(longest, float((seconds * fps[coded.indices.to_numpy()]).max(initial=0.0)))
        return math.ceil(longest - 1e-6)

    def check_length(self, title: str) -> None:
        """Raise ValueError if even the longest clip has fewer frames than the view."""
        longest = self.longest_clip()
        if 0 < longest < self.view.frames:
            raise ValueError(
                f"{title}: frames is {self.view.frames}, and the longest clip has {longest}; "
                "set fewer frames (a short clip repeats some, but all of them would)"
            )

    def sample(
        self, row: int, rng: np.random.Generator, out: NDArray[np.uint8] | None = None
    ) -> dict[str, Any]:
        """One clip: `row` and `frames`, uint8 [T, H, W, 3] in training, [V, T, H, W, 3] in evaluation.

        V = clips × crops, crops fastest. With texts also `text_id` and `tokens`, int64 [L]; `entries`
        if there are any; with `augment_on_device` also `draws`, a `Draws`. A training clip is read into
        `out`, if given, and stays there unless it is augmented here. Raises MediaError if frames
        cannot be read.
        """
        sample: dict[str, Any] = {"row": row}
        if self.view.training:
            sample |= self._training_clip(row, rng, out)
        else:
            sample["frames"] = self._evaluation_views(row)
        if self._choose_text is not None:
            text_id, text = self._choose_text(row, rng)
            sample["text_id"], sample["tokens"] = text_id, self._tokens(text)
        if self._entries is not None:
            sample["entries"] = self._entries(row)
        return sample

    def _training_clip(
        self, row: int, rng: np.random.Generator, out: NDArray[np.uint8] | None
    ) -> dict[str, Any]:
        """`frames`, augmented or with `draws`; the generator is used in the same order for both."""
        view, video_id = self.view, self.clips.video_id(row)
        numbers = self._frame_numbers(row, video_id, rng=rng)
        width, height = self.chunks.size(video_id)
        crop = training_crop(width, height, view=view, rng=rng)
        if view.augment_on_device:
            return {"frames": self._read(video_id, numbers, crop, out), "draws": self._draws(rng)}
        if view.rand_augment is None:
            clip_THWC = self._read(video_id, numbers, crop, out)
        elif view.rand_augment_whole_frame:
            whole_THWC = self._read(video_id, numbers, Crop(0, 0, width, height), size_px=(width, height))
            clip_THWC = scaled(self._augmented(whole_THWC, rng), crop, view.image_size_px)
        else:
            clip_THWC = self._augmented(self._read(video_id, numbers, crop, out), rng)
        if view.random_erasing > 0:
            clip_THWC = erase_clip(clip_THWC, probability=view.random_erasing, rng=rng)
        return {"frames": clip_THWC}

    def _draws(self, rng: np.random.Generator) -> Draws:
        view, side_px = self.view, self.view.image_size_px
        drawn = Draws()
        if view.rand_augment is not None:
            kind = view.rand_augment_interpolation
            operations = draw_operations(view.rand_augment, side_px=side_px, interpolation=kind, rng=rng)
            drawn = replace(drawn, operations=operations)
        if view.random_erasing > 0:
            shape = (view.frames, side_px, side_px, 3)
            drawn = replace(drawn, erasure=draw_erasure(shape, probability=view.random_erasing, rng=rng))
        return drawn

    def _augmented(self, clip_THWC: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        assert self.view.rand_augment is not None
        return rand_augment_clip(
            clip_THWC,
            policy=self.view.rand_augment,
            interpolation=self.view.rand_augment_interpolation,
            rng=rng,
        )

    def _evaluation_views(self, row: int) -> NDArray[np.uint8]:
        video_id = self.clips.video_id(row)
        width, height = self.chunks.size(video_id)
        crops = three_crops(width, height) if self.view.crops == 3 else (center_crop(width, height),)
        times = [self._frame_numbers(row, video_id, view=view) for view in range(self.view.clips)]
        return np.stack([self._read(video_id, numbers, crop) for numbers in times for crop in crops])

    def _frame_numbers(
        self, row: int, video_id: str, *, rng: np.random.Generator | None = None, view: int = 0
    ) -> NDArray[np.int64]:
        return self.view.numbers(
            self.clips.start_s(row),
            self.clips.end_s(row),
            fps=float(self.chunks.fps(video_id)),
            frame_count=self.chunks.frame_count(video_id),
            rng=rng,
            view=view,
        )

    def _read(
        self,
        video_id: str,
        numbers: NDArray[np.int64],
        crop: Crop,
        out: NDArray[np.uint8] | None = None,
        *,
        size_px: int | tuple[int, int] | None = None,
    ) -> NDArray[np.uint8]:
        size_px, there = size_px or self.view.image_size_px, numbers != BLACK
        read = partial(self.chunks.read, video_id, crop=crop, size_px=size_px, backend=self._backend)
        if there.all():
            return read(numbers, out_THWC=out)
        clip_THWC = empty_clip(len(numbers), size_px) if out is None else out
        clip_THWC[there], clip_THWC[~there] = read(numbers[there]), 0
        return clip_THWC


def scaled(clip_THWC: NDArray[np.uint8], crop: Crop, size_px: int) -> NDArray[np.uint8]:
    """Crop whole frames and scale them as the decoder does: uint8 [T, size_px, size_px, 3]."""
    scale, out_THWC = Scaler(crop, size_px), empty_clip(len(clip_THWC), size_px)
    for frame_HWC, out_HWC in zip(clip_THWC, out_THWC, strict=True):
        scale(frame_HWC, out_HWC)
    return out_THWC


def training_crop(width: int, height: int, *, view: View, rng: np.random.Generator) -> Crop:
    """The crop box of a training clip, by the view's rule, mirrored with the view's probability."""
    if view.crop == "random_resized":
        crop = random_resized_crop(width, height, scale=view.crop_scale, rng=rng)
    elif view.crop == "multi_scale":
        crop = multi_scale_crop(width, height, rng=rng)
    else:
        crop = center_crop(width, height)
    return replace(crop, flip=bool(rng.random() < view.horizontal_flip))
