"""The relevancy task: clips and sentences ranked by how relevant they are to each other."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

from torch import Tensor

from avion_core.config import RelevancyStage
from avion_core.data.clips import ClipTable, Sentences
from avion_core.models.dual_encoder import DualEncoder
from avion_core.train.distributed import World
from avion_core.train.losses import Gather, local
from avion_core.train.protocols import Batch, StepLoss
from avion_core.train.relevancy import PairRelevancy
from avion_core.train.tasks.video_text import VideoTextSetup, VideoTextTask
from avion_core.train.texts import RelevantSentence


class RelevancyTask(VideoTextTask):
    """Ranking of clips and sentences by their relevancy, for multi-instance retrieval."""

    def __init__(
        self,
        model: DualEncoder,
        *,
        ranking: Callable[..., Tensor],
        relevancy: PairRelevancy,
        gather: Gather = local,
    ) -> None:
        """`ranking` is a ranking loss of `losses`, its own settings filled in."""
        self.model, self._ranking, self._relevancy, self._gather = model, ranking, relevancy, gather

    def loss_of(self, embeddings: tuple[Tensor, ...], batch: Batch) -> StepLoss:
        """The ranking loss of (video_BD, text_BD); batch: `rows`, `text_ids`."""
        video_BD, text_BD = embeddings
        relevancy_GG = self._relevancy(self._gather(batch["rows"]), self._gather(batch["text_ids"]))
        return StepLoss(self._ranking(video_BD, text_BD, relevancy_GG, gather=self._gather))

    def after_update(self) -> None:
        """Nothing to bound."""


class RelevancySetup(VideoTextSetup):
    """A relevant sentence of the data set's for each clip, and the ranking loss of the settings."""

    settings: RelevancyStage

    @cached_property
    def sentences(self) -> Sentences:
        """Sentences of the data set. Raises ValueError if the stage was given none."""
        return Sentences.load(self.file("sentences"))

    def choose_text(self, clips: ClipTable) -> RelevantSentence:
        """One of the sentences that are relevant enough."""
        return RelevantSentence(clips, self.sentences, min_relevancy=self.settings.min_relevancy)

    def task(self, model: DualEncoder, clips: ClipTable, world: World) -> RelevancyTask:
        """The task of the settings."""
        return RelevancyTask(
            model,
            ranking=self.loss(),
            relevancy=PairRelevancy(clips, self.sentences, device=world.device),
            gather=self.gather(world),
        )
