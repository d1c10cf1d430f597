"""The provider `vision`: a language model that takes images narrates clips."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from avion_core.config import VisionSettings
from avion_core.data.chunks import ChunkIndex
from avion_core.narrate.api_key import read_api_key
from avion_core.narrate.budget import Estimate, reply_tokens
from avion_core.narrate.clip_frames import ClipFrames
from avion_core.narrate.clip_provider import ClipProvider, ClipTexts, ClipWork
from avion_core.narrate.clip_questions import TYPICAL_BYTES, ClipQuestions, clip_keys
from avion_core.narrate.provider import NarrateError, check_server


class VisionProvider(ClipProvider):
    """Sends a clip's frames to a server, keeps its answers in a journal, and stays within `max_usd`."""

    def keys(self, clips: pa.Table, chunks: ChunkIndex) -> NDArray[np.uint64]:
        """Digests of the frames and of what else affects an answer."""
        return clip_keys(clips, self._frames(chunks), self.settings)

    def narrate(self, work: ClipWork) -> Iterator[ClipTexts]:
        """Answers for each clip, from the journal or the server."""
        from avion_core.narrate.language_model import ask_model  # imports the client

        every = self._questions(work.clips, work.keys, work.chunks, work.journal_dir)
        others = {
            folder: self._questions(other.clips, other.keys, other.chunks, work.journal_dir)
            for folder, other in work.others.items()
        }
        found = ask_model(
            every.at(work.places),
            every=every,
            others=others,
            shard=work.shard,
            journal_dir=work.journal_dir,
        )
        return (ClipTexts(clip.sentences, None, clip.reason, clip.tries) for clip in found)

    def check(self) -> None:
        """Check the address, the prices, and that a reply may have enough tokens."""
        vision, count = self.settings.of(VisionSettings), self.settings.texts_per_clip
        check_server(vision)
        needed = int(reply_tokens(np.array([TYPICAL_BYTES]), count=count)[0])
        if needed > vision.max_tokens_per_reply:
            raise NarrateError(
                f"narrator.vision.max_tokens_per_reply ({vision.max_tokens_per_reply}) cannot hold {count} "
                f"sentences (about {needed} tokens), as a server without choices sends them; raise it or "
                "lower narrator.texts_per_clip"
            )

    def check_key(self) -> None:
        """Raise ProviderError if the key cannot be used."""
        read_api_key(self.settings.of(VisionSettings))

    def estimate(
        self, clips: pa.Table, keys: NDArray[np.uint64], *, chunks: ChunkIndex, journal_dir: Path
    ) -> Estimate:
        """Requests, images, tokens, bytes and price. Nothing is sent."""
        from avion_core.narrate.language_model import open_questions  # imports the client

        return open_questions(self._questions(clips, keys, chunks, journal_dir), journal_dir).estimate()

    def _frames(self, chunks: ChunkIndex) -> ClipFrames:
        vision = self.settings.of(VisionSettings)
        return ClipFrames(chunks, vision.frames, vision.image_size_px)

    def _questions(
        self, clips: pa.Table, keys: NDArray[np.uint64], chunks: ChunkIndex, journal_dir: Path
    ) -> ClipQuestions:
        return ClipQuestions(
            clips, keys, frames=self._frames(chunks), settings=self.settings, journal_dir=journal_dir
        )
