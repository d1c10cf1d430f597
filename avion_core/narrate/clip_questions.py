"""Clips to narrate, as questions for a language model that takes images."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from avion_core.config import NarratorSettings, VisionSettings
from avion_core.media import MediaError
from avion_core.narrate.budget import Estimate, message_tokens, reply_tokens
from avion_core.narrate.clip_frames import ClipFrames, images_of
from avion_core.narrate.clip_sentences import CLIP_PARSER, parse_clip_replies
from avion_core.narrate.exchange import HARMLESS, Books, ProviderError, Request
from avion_core.narrate.ledger import key_numbers
from avion_core.narrate.parse import Parsed
from avion_core.narrate.prices import Prices
from avion_core.narrate.prompts import Message, reply_schema
from avion_core.narrate.questions import CANNOT_BE_READ, Questions
from avion_core.narrate.vision_probe import (
    VisionServer,
    forget_server,
    kept_server,
    learn_server,
    probe_pictures,
)

PROMPT_VERSION = 1
"""Part of the key: another version of the words around the instruction asks again."""
TYPICAL_BYTES = len("#C C picks up the red cup from the table")
"""Of a sentence."""
READY_REQUESTS = 4
"""Requests kept ready, but at least twice `parallel_requests`: they hold images."""
MOST_SAMPLED = 20
"""Clips whose frames are read for the estimate."""


def clip_messages(images: Sequence[bytes], *, instruction: str, count: int, sheet: bool) -> list[Message]:
    """The chat that asks for `count` sentences about a clip's JPEGs; `sheet` for a contact sheet."""
    sentences = "one sentence" if count == 1 else f"{count} different sentences"
    answer = f'Answer with a JSON object and nothing else: under "1", an array of {sentences}.'
    shown = "The frames are on one sheet, row by row." if sheet else "The frames are in order of time."
    addresses = (f"data:image/jpeg;base64,{base64.b64encode(image).decode()}" for image in images)
    parts = [{"type": "image_url", "image_url": {"url": address}} for address in addresses]
    return [
        {"role": "system", "content": f"{instruction.strip()}\n{answer}"},
        {"role": "user", "content": [*parts, {"type": "text", "text": shown}]},
    ]


class ClipQuestions(Questions):
    """Clips with distinct frames."""

    title: ClassVar[str] = "narrate clips"
    what: ClassVar[str] = "clips"
    section: ClassVar[str] = "narrator"
    prompt: ClassVar[str] = "narrator.instruction"
    cheaper: ClassVar[str] = (
        "lower narrator.vision.frames, image_size_px or narrator.texts_per_clip, set window_seconds: null"
    )

    def __init__(
        self,
        clips: pa.Table,
        keys: NDArray[np.uint64],
        *,
        frames: ClipFrames,
        settings: NarratorSettings,
        journal_dir: Path | None,
    ) -> None:
        """`clips` are rows of `windows.PLACES` with these keys (`clip_keys`)."""
        self.clips, self.keys = clips, keys
        self._frames, self._settings, self._journal_dir = frames, settings, journal_dir
        self.server = self._vision = settings.of(VisionSettings)
        self.max_failed_share = settings.max_failed_share
        self._unreadable: dict[int, str] = {}
        self._was_kept = False
        kept = kept_server(journal_dir, settings) if journal_dir else None
        self._known = kept or VisionServer.assumed(self._vision)
        """What the server takes."""

    @property
    def parser(self) -> str:
        """Digest of the parser."""
        return CLIP_PARSER

    @property
    def ready(self) -> int:
        """Requests kept ready for the client."""
        return max(READY_REQUESTS, 2 * self._vision.parallel_requests)

    def at(self, places: NDArray[np.int64]) -> ClipQuestions:
        """Some of the clips."""
        return ClipQuestions(
            self.clips.take(pa.array(places)),
            self.keys[places],
            frames=self._frames,
            settings=self._settings,
            journal_dir=self._journal_dir,
        )

    def name(self, place: int) -> str:
        """The clip's video and seconds."""
        return "{} {:.3f}-{:.3f}".format(*self._place(place))

    def unfit(self, place: int) -> str | None:
        """Why a clip cannot be sent, once its frames could not be read."""
        return self._unreadable.get(place)

    def fit(self, places: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of the clips can be sent, as far as known."""
        return ~np.isin(places, np.array([*self._unreadable], np.int64))

    def prepare(self, client: Any, books: Books) -> None:
        """Probe the server, unless another shard did."""
        assert self._journal_dir is not None, "no folder for answers"
        self._was_kept = kept_server(self._journal_dir, self._settings) is not None
        self._known = learn_server(
            self._journal_dir, client, books, settings=self._settings, request=self._request_of
        )

    def doubt(self, reason: str, *, certain: bool = False) -> ProviderError | None:
        """The error that the server no longer takes what it took when it was probed."""
        if not (self._was_kept or certain) or self._journal_dir is None:
            return None
        forget_server(self._journal_dir)
        return ProviderError(
            f"{self.title}: the server refuses a request in the form that it took earlier ({reason}); the "
            "next run finds out anew what it takes: start it again"
        )

    def request(self, number: int, places: Sequence[int]) -> Request:
        """The request for one clip. Raises MediaError if its frames cannot be read."""
        (place,) = places
        try:
            frames_THWC = self._frames.read(*self._place(place))
        except MediaError as error:
            self._unreadable[place] = f"cannot be read: {error.reason}"
            raise
        request = self._request_of(frames_THWC, self._known, number=number, name=self.name(place))
        return replace(request, harmless=self._harmless)

    @cached_property
    def _harmless(self) -> Any:
        """What a message about a clip holds, with pictures of one colour each."""
        vision = self._vision
        pictures = probe_pictures(vision.frames, vision.image_size_px)
        request = self._request_of(pictures, self._known, number=0, name=HARMLESS)
        return request.messages[-1]["content"]

    def judged(self, reply: Any, names: Any, *, finish: Any) -> list[Parsed]:
        """The usable sentences for the clip of a request."""
        replies = reply if isinstance(reply, list) else [reply]
        try:
            return [parse_clip_replies(replies, count=self._settings.texts_per_clip, finish=finish)]
        except Exception:  # the parser should accept anything, but a paid answer must never stop a run
            return [CANNOT_BE_READ]

    def estimate(self) -> Estimate:
        """Size and price of narrating all clips; decodes a few to measure their bytes."""
        input_tokens, output_tokens = (len(self) * count for count in self._tokens_each())
        prices = Prices.of(self._vision, self._vision.price_share)
        images = self._known.images_of_a_clip(self._vision)
        return Estimate(
            count=len(self),
            requests=len(self),
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            usd=prices.usd(input_tokens, output_tokens),
            reasoning_usd=prices.usd(0, len(self) * self._vision.max_reasoning_tokens),
            what="distinct clips",
            images=len(self) * images,
            sent_bytes=round(len(self) * self._bytes_each()),
            price_share=self._vision.price_share,
            prices=Prices.of(self._vision).described,
        )

    def usd(self) -> NDArray[np.float64]:
        """Price of each clip; they are all alike."""
        return np.full(len(self), Prices.of(self._vision, self._vision.price_share).usd(*self._tokens_each()))

    def _place(self, place: int) -> tuple[str, float, float]:
        video_id, start_s, end_s = (
            self.clips[name][place].as_py() for name in ("video_id", "start_s", "end_s")
        )
        return video_id, start_s, end_s

    def _request_of(
        self, frames_THWC: NDArray[np.uint8], server: VisionServer, *, number: int, name: str
    ) -> Request:
        """The request for these frames in the form that a server takes."""
        count = 1 if server.choices else self._settings.texts_per_clip
        images = images_of(frames_THWC, sheet=server.sheet, quality=self._vision.jpeg_quality)
        messages = clip_messages(
            images, instruction=self._settings.instruction, count=count, sheet=server.sheet
        )
        return Request(
            number,
            (name,),
            tuple(messages),
            reply_schema(1, count=count),
            choices=self._settings.texts_per_clip if server.choices else 1,
            image_tokens=server.most_image_tokens(len(images)),
        )

    def _tokens_each(self) -> tuple[int, int]:
        """Input and output tokens of a clip."""
        texts = self._settings.texts_per_clip
        prompt = clip_messages([], instruction=self._settings.instruction, count=texts, sheet=False)
        images = self._known.images_of_a_clip(self._vision)
        given = message_tokens(prompt) + math.ceil(images * self._known.tokens_per_image)
        count, replies = (1, texts) if self._known.choices else (texts, 1)
        written = int(reply_tokens(np.array([TYPICAL_BYTES]), count=count)[0])
        return given, replies * min(written, self._vision.max_tokens_per_reply)

    def _bytes_each(self) -> float:
        """Mean bytes of a request, measured on a few clips spread over all; 0 if none can be read."""
        found = []
        for place in np.unique(np.linspace(0, len(self) - 1, min(len(self), MOST_SAMPLED)).astype(np.int64)):
            try:
                frames_THWC = self._frames.read(*self._place(int(place)))
            except MediaError:
                continue
            request = self._request_of(frames_THWC, self._known, number=0, name="")
            found.append(len(json.dumps(request.messages)))
        return float(np.mean(found)) if found else 0.0


def clip_keys(clips: pa.Table, frames: ClipFrames, settings: NarratorSettings) -> NDArray[np.uint64]:
    """The key of each clip: a digest of what affects its answer, known without decoding a frame.

    That is the prompt, the model and its temperature, and of each frame the checksum of its chunk and its
    number therein, with the size and quality at which it is sent. How images are arranged, limits, prices and
    the server's address do not count. Clips with the same frames have the same key.
    """
    decided = {
        "prompt": PROMPT_VERSION,
        "instruction": settings.instruction.strip(),
        "texts": settings.texts_per_clip,
        **settings.of(VisionSettings).recipe(),
    }
    shared = hashlib.sha256(json.dumps(decided, sort_keys=True, separators=(",", ":")).encode())
    keys = []
    for video_id, start_s, end_s in zip(
        *(clips[name].to_pylist() for name in ("video_id", "start_s", "end_s")), strict=True
    ):
        try:
            seen: Any = frames.identity(video_id, start_s, end_s)
        except MediaError:  # nothing to see; its reason is found when it is read
            seen = [video_id, start_s, end_s]
        digest = shared.copy()
        digest.update(json.dumps(seen).encode())
        keys.append(digest.hexdigest()[:16])
    return key_numbers(keys)
