"""Sources by their name in the configuration, `source` (settings: `SOURCE_SETTINGS`)."""

from __future__ import annotations

from typing import Any

from avion_core.registry import Registry
from avion_core.sources.ego4d import Ego4DDownload
from avion_core.sources.folder import OwnVideos
from avion_core.sources.local import LocalFiles
from avion_core.sources.source import Source
from avion_core.sources.toy_kitchen.source import ToyKitchen

SOURCES: Registry[type[Source[Any]]] = Registry("source")
SOURCES.register("toy_kitchen", ToyKitchen)
SOURCES.register("ego4d", Ego4DDownload)
SOURCES.register("local", LocalFiles)
SOURCES.register("folder", OwnVideos)
