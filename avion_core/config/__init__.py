"""Every setting of the pipeline: typed, frozen, and refused by name when unknown or out of range.

`config.yaml` holds the demo; a file given with `--configfile` is laid over it (`configfile.lay_over`).
Units are in the names. The JSON schema and `docs/settings.md` are generated from the classes in here
(`avion_core.settings_page`), so this package is the one place that explains a setting. One module a section.
"""

from avion_core.config.base import (
    Count,
    Folder,
    Fraction,
    Name,
    NotNegative,
    Positive,
    Section,
    SettingsError,
    known,
)
from avion_core.config.datasets import (
    CHUNK_FORMATS,
    DatasetSettings,
    LayoutName,
    TranscodeSettings,
)
from avion_core.config.evaluations import EvaluationSettings
from avion_core.config.fit import unserved
from avion_core.config.jobs import EvaluationJob, StageJob
from avion_core.config.losses import CONTRASTIVE_LOSSES, RELEVANCY_LOSSES, LossSettings
from avion_core.config.messages import NEW_ENTRY
from avion_core.config.narration import (
    PROVIDERS,
    NarrateSettings,
    OpenAISettings,
    ProviderSettings,
    RephraseSettings,
)
from avion_core.config.runs import RunSettings, Settings, load_settings
from avion_core.config.sources import (
    SOURCE_SETTINGS,
    Ego4DSource,
    FolderSource,
    LocalSource,
    SourceSettings,
    ToyKitchenSettings,
)
from avion_core.config.stage_classes import STAGE_TASKS, stage_class
from avion_core.config.stages import OPEN_CLIP, StageSettings
from avion_core.config.tasks import (
    ClassificationStage,
    ComparingStage,
    ContrastiveStage,
    ReconstructionStage,
    RelevancyStage,
)

__all__ = [
    "CHUNK_FORMATS",
    "CONTRASTIVE_LOSSES",
    "NEW_ENTRY",
    "OPEN_CLIP",
    "PROVIDERS",
    "RELEVANCY_LOSSES",
    "SOURCE_SETTINGS",
    "STAGE_TASKS",
    "ClassificationStage",
    "ComparingStage",
    "ContrastiveStage",
    "Count",
    "DatasetSettings",
    "Ego4DSource",
    "EvaluationJob",
    "EvaluationSettings",
    "Folder",
    "FolderSource",
    "Fraction",
    "LayoutName",
    "LocalSource",
    "LossSettings",
    "Name",
    "NarrateSettings",
    "NotNegative",
    "OpenAISettings",
    "Positive",
    "ProviderSettings",
    "ReconstructionStage",
    "RelevancyStage",
    "RephraseSettings",
    "RunSettings",
    "Section",
    "Settings",
    "SettingsError",
    "SourceSettings",
    "StageJob",
    "StageSettings",
    "ToyKitchenSettings",
    "TranscodeSettings",
    "known",
    "load_settings",
    "stage_class",
    "unserved",
]
