"""A plug-in with architectures of the working directory."""

from pathlib import Path

from avion_core.models.architecture import FOLDERS

FOLDERS.append(Path("architectures"))
