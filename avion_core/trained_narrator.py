"""The provider `trained`: clips narrated by a stage of the workflow that trained a narrator.

Texts are kept as they are written, one line per clip, so that a stopped shard continues, also with another
number of shards. Lines of another model, other settings, code or chunks are not read. torch is imported only
when clips are narrated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from avion_core.config import EvaluationSettings, TrainedSettings
from avion_core.data.clips import BadClip, ClipTable
from avion_core.files import code_fingerprint, fingerprint, sha256
from avion_core.narrate.clip_provider import ClipProvider, ClipTexts, ClipWork
from avion_core.narrate.journal import Journal
from avion_core.narrate.kept_lines import kept_lines
from avion_core.narrate.provider import NarrateError
from avion_core.plain_text import plain
from avion_core.registry import code_files

if TYPE_CHECKING:
    from torch import Tensor

    from avion_core.evaluate.subject import Subject
    from avion_core.models.generate import Generated
    from avion_core.models.narrator import Narrator

WRITTEN = "written"
"""Folder of the shards' texts, in the folder of paid answers."""
NO_WORDS = "no words"


@dataclass(frozen=True)
class KeptTexts:
    """A line of a shard's file."""

    made_with: str
    """Digest of all that affects a video's texts."""
    clip: str
    """Video and seconds."""
    texts: Sequence[str]
    scores: Sequence[float]
    reason: str | None = None


class TrainedProvider(ClipProvider):
    """Narrates with a model of ours. The score of a text is LaViLa's; lower is surer."""

    def narrate(self, work: ClipWork) -> Iterator[ClipTexts]:
        """The distinct texts of each clip in the order in which they were sampled."""
        if work.model is None:
            raise NarrateError("the provider 'trained' needs the model of its stage")
        folder = work.journal_dir / WRITTEN
        rows = work.clips.take(pa.array(work.places)).to_pylist()
        made_with = self._made_with(work, {row["video_id"] for row in rows})
        kept = _kept(folder, {_name(row): made_with[row["video_id"]] for row in rows})
        missing = [{**row, "texts": []} for row in rows if _name(row) not in kept]
        if missing:
            with Journal(folder, work.shard) as journal:
                for line in self._write(work, ClipTable.from_rows(missing), made_with, journal.add):
                    kept[line.clip] = line
        for row in rows:
            line = kept[_name(row)]
            yield ClipTexts(line.texts, line.scores, line.reason)

    def _made_with(self, work: ClipWork, videos: set[str]) -> dict[str, str]:
        """Digest of all that affects a video's texts, by video."""
        assert work.model is not None
        shared = {
            "weights": sha256(work.model),
            "model": sha256(work.model.with_name("model.json")),
            "recipe": self.settings.recipe(),
            "code": code_fingerprint(code_files(TrainedSettings.code)),
        }
        has, checksums = work.chunks.has, work.chunks.checksums
        return {video: fingerprint([shared, checksums(video) if has(video) else []]) for video in videos}

    def _write(
        self,
        work: ClipWork,
        clips: ClipTable,
        made_with: Mapping[str, str],
        keep: Callable[[KeptTexts], None],
    ) -> list[KeptTexts]:
        """Write the texts of clips in batches, each kept at once; clips that cannot be read are not kept.

        Raises EvaluationError for a model whose outputs are not finite.
        """
        from avion_core.evaluate.captions_evaluator import clip_seeds
        from avion_core.evaluate.inference import NothingReadError
        from avion_core.models.generate import TextSampling, generate

        subject, own = self._subject(work, missing=len(clips)), self.settings.of(TrainedSettings)
        model = subject.narrator()
        sampling = TextSampling(
            texts=self.settings.texts_per_clip,
            temperature=own.temperature,
            nucleus=own.nucleus,
            max_tokens=model.config.context_length,
        )
        names = [_name(row) for row in clips.arrow().select(["video_id", "start_s", "end_s"]).to_pylist()]
        written = []

        def forward(frames_BTHWC: Tensor, rows: Sequence[int]) -> Tensor:
            seeds = clip_seeds(clips, rows, seed=own.seed)
            made = generate(model, model.normalise(frames_BTHWC), sampling, seeds=seeds)
            subject.check_finite(made.scores.cpu().numpy())
            for row, (texts, scores) in zip(rows, _texts(model, made), strict=True):
                reason = None if texts else NO_WORDS
                line = KeptTexts(made_with[clips.video_id(row)], names[row], texts, scores, reason)
                keep(line)
                written.append(line)
            return frames_BTHWC.new_zeros(len(rows), 1)

        try:
            bad: Sequence[BadClip] = subject.over_clips(clips, forward).bad
        except NothingReadError as error:  # all others were read by an earlier start
            bad = error.bad
        return written + [KeptTexts("", names[clip.row], [], [], clip.reason) for clip in bad]

    def _subject(self, work: ClipWork, *, missing: int) -> Subject:
        """The model on its device, with the settings by which it reads clips."""
        from avion_core.evaluate.subject import unlisted_subject

        assert work.model is not None
        own = self.settings.of(TrainedSettings)
        reading = EvaluationSettings.of_kind(
            "captions",
            dataset="any",
            stage=own.stage,
            batch_size=own.batch_size,
            precision=own.precision,
            threads=own.threads,
            gpus=own.gpus,
            clip_timeout_seconds=own.clip_timeout_seconds,
            max_bad_share=min(1.0, self.settings.max_failed_share * len(work.places) / missing),
        )
        return unlisted_subject(
            work.model.parent,
            reading,
            title=f"narrate clips {work.shard}",
            chunks=work.chunks,
            limit="narrator.max_failed_share",
        )


def _texts(model: Narrator, made: Generated) -> Iterator[tuple[list[str], list[float]]]:
    """Distinct texts that have words, on one line each, and their scores, of each clip."""
    from avion_core.data.tokenizer import decode

    language = model.config.language_model
    words = made.words(begin=language.begin_token, end=language.end_token)
    for clip, scores in zip(words, made.scores.tolist(), strict=True):
        found: dict[str, float] = {}
        for tokens, score in zip(clip, scores, strict=True):
            found.setdefault(plain(decode(tokens, tokenizer=language.tokenizer)), score)
        found.pop("", None)
        yield list(found), list(found.values())


def _name(row: dict[str, Any]) -> str:
    """A clip's video and seconds."""
    return f"{row['video_id']} {row['start_s']!r} {row['end_s']!r}"


def _kept(folder: Path, made_with: Mapping[str, str]) -> dict[str, KeptTexts]:
    """Texts that an earlier start of any shard has written, by clip, for the clips in `made_with`."""
    lines = (line for line in kept_lines(folder) if made_with.get(line["clip"]) == line["made_with"])
    return {line["clip"]: KeptTexts(**line) for line in lines}
