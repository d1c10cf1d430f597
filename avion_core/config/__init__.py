"""Every setting of the pipeline: typed, frozen, and refused by name when unknown or out of range.

`config.yaml` holds the demo; a file given with `--configfile` is laid over it (`configfile.lay_over`).
Units are in the names. The JSON schema and `docs/settings.md` are generated from the classes in here
(`avion_core.settings_page`), so this package is the one place that explains a setting. One module a section.
Settings of a single source or task are imported from their module, so that adding one changes nothing here.
"""

from avion_core.config.base import (
    Count,
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
from avion_core.config.evaluations import (
    EvaluationSettings,
    RetrievalSettings,
    ensemble_of,
    evaluation_class,
)
from avion_core.config.filters import CosineFilter, FilterSettings, NarratorFilters
from avion_core.config.fit import unserved
from avion_core.config.jobs import StageJob
from avion_core.config.language_model import CLIENTS, ChatSettings, Client, LanguageModelSettings
from avion_core.config.local_server import LocalServerSettings
from avion_core.config.losses import CONTRASTIVE_LOSSES, RELEVANCY_LOSSES, LossSettings
from avion_core.config.messages import NEW_ENTRY
from avion_core.config.narration import NarrateSettings, RephraserSettings, RephraseSettings
from avion_core.config.narrator import NarratorSettings, TrainedSettings, VisionSettings
from avion_core.config.providers import PROVIDERS, RENAMED, ProviderSettings, provider_names
from avion_core.config.runs import Settings, load_settings, run_of
from avion_core.config.sources import SOURCE_SETTINGS, SourceSettings, ToyKitchenSettings
from avion_core.config.stage_classes import STAGE_TASKS, stage_class
from avion_core.config.stages import OPEN_CLIP, StageSettings
from avion_core.config.tasks import ComparingStage

__all__ = [
    "CHUNK_FORMATS",
    "CLIENTS",
    "CONTRASTIVE_LOSSES",
    "NEW_ENTRY",
    "OPEN_CLIP",
    "PROVIDERS",
    "RELEVANCY_LOSSES",
    "RENAMED",
    "SOURCE_SETTINGS",
    "STAGE_TASKS",
    "ChatSettings",
    "Client",
    "ComparingStage",
    "CosineFilter",
    "Count",
    "DatasetSettings",
    "EvaluationSettings",
    "FilterSettings",
    "Fraction",
    "LanguageModelSettings",
    "LayoutName",
    "LocalServerSettings",
    "LossSettings",
    "Name",
    "NarrateSettings",
    "NarratorFilters",
    "NarratorSettings",
    "NotNegative",
    "Positive",
    "ProviderSettings",
    "RephraseSettings",
    "RephraserSettings",
    "RetrievalSettings",
    "Section",
    "Settings",
    "SettingsError",
    "SourceSettings",
    "StageJob",
    "StageSettings",
    "ToyKitchenSettings",
    "TrainedSettings",
    "TranscodeSettings",
    "VisionSettings",
    "ensemble_of",
    "evaluation_class",
    "known",
    "load_settings",
    "provider_names",
    "run_of",
    "stage_class",
    "unserved",
]
