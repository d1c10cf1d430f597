"""What the plug-in's task and losses compute."""

from avion_core.train.losses import info_nce, max_margin
from avion_core.train.protocols import StepLoss
from avion_core.train.tasks.setup import TaskSetup
from avion_core.train.tasks.video_text import VideoTextTask
from avion_core.train.texts import AnyText


def weighted(video_BD, text_BD, *, weight, **options):
    return weight * info_nce(video_BD, text_BD, **options)


def scaled(video_BD, text_BD, relevancy_GG, *, hundredths, gather):
    return max_margin(video_BD, text_BD, margin=hundredths / 100, gather=gather)


class AgreementTask(VideoTextTask):
    def __init__(self, model, strength):
        self.model, self.strength = model, strength

    def loss_of(self, embeddings, batch):
        video_BD, text_BD = embeddings
        return StepLoss(self.strength * (1 - (video_BD * text_BD).sum(dim=1).mean()))

    def after_update(self):
        pass


class AgreementSetup(TaskSetup):
    def choose_text(self, clips):
        return AnyText(clips)

    def task(self, model, clips, world):
        return AgreementTask(model, self.settings.strength)
