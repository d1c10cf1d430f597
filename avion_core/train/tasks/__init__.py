"""What one step computes: each task joins a model with a loss. One module a task, with its setup of a stage.

The loop is in `train/engine.py`.
"""

from avion_core.train.tasks.classification import ClassificationTask, mix
from avion_core.train.tasks.contrastive import ContrastiveTask
from avion_core.train.tasks.reconstruction import ReconstructionTask
from avion_core.train.tasks.relevancy import RelevancyTask
from avion_core.train.tasks.setup import TaskSetup, task_setup
from avion_core.train.tasks.video_text import VideoTextSetup, VideoTextTask

__all__ = [
    "ClassificationTask",
    "ContrastiveTask",
    "ReconstructionTask",
    "RelevancyTask",
    "TaskSetup",
    "VideoTextSetup",
    "VideoTextTask",
    "mix",
    "task_setup",
]
