"""The relevancy task: rank clips and sentences by their relevancy to each other."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

from torch import Tensor

from avion_core.config.tasks import RelevancyStage
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
        """`ranking` is a ranking loss of `losses` with its settings bound."""
        self.model, self._ranking, self._relevancy, self._gather = model, ranking, relevancy, gather

    def loss_of(self, embeddings: tuple[Tensor, ...], batch: Batch) -> StepLoss:
        """The ranking loss of (video_BD, text_BD); batch: `rows`, `text_ids`."""
        video_BD, text_BD = embeddings
        relevancy_GG = self._relevancy(self._gather(batch["rows"]), self._gather(batch["text_ids"]))
        return StepLoss(self._ranking(video_BD, text_BD, relevancy_GG, gather=self._gather))

    def after_update(self) -> None:
        """Does nothing."""


class RelevancySetup(VideoTextSetup):
    """Setup with a relevant sentence for each clip and the configured ranking loss."""

    settings: RelevancyStage

    @cached_property
    def sentences(self) -> Sentences:
        """Sentences of the data set. Raises ValueError without them."""
        return Sentences.load(self.file("sentences"))

    def choose_text(self, clips: ClipTable) -> RelevantSentence:
        """One of the sentences above `min_relevancy`."""
        return RelevantSentence(clips, self.sentences, min_relevancy=self.settings.min_relevancy)

    def task(self, model: DualEncoder, clips: ClipTable, world: World) -> RelevancyTask:
        """The task with the stage's settings."""
        return RelevancyTask(
            model,
            ranking=self.loss(),
            relevancy=PairRelevancy(clips, self.sentences, device=world.device),
            gather=self.gather(world),
        )
