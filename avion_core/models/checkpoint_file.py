"""Read third-party checkpoint files as data: weights under their own names, without running any code.

The format follows from the content, not the file name. Pickles go through an unpickler that imports nothing:
everything that is not a tensor becomes an `Inert`.
"""

from __future__ import annotations

import pickle
import sys
import tarfile
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from avion_core.models.weights import ModelError

WEIGHT_KEYS = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "module",
    "net",
    "network",
    "weights",
    "params",
    "ema",
    "ema_state_dict",
    "model_ema",
    "params_ema",
    "state_dict_ema",
)
"""Entries where trainers keep weights; an average beside them is a second set."""
LISTED = 8
"""Entries named in an error before 'and n more'."""
DATA_MODULES = {
    *("_codecs", "argparse", "array", "collections", "copyreg", "datetime", "decimal", "enum", "fractions"),
    *("functools", "numbers", "pathlib", "types", "typing", "uuid"),
}
"""Standard library modules whose objects are data; files that name others are refused."""
DATA_BUILTINS = {
    *("bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int", "list", "object"),
    *("range", "set", "slice", "str", "tuple", "type"),
    *("long", "unicode", "xrange"),
}
"""The same for builtins; the last three are int, str and range in pickle's protocol 2, torch's default."""


class Inert(dict[Any, Any]):
    """Stand-in for an object whose class is not imported: keeps dictionary entries, discards the rest."""

    described = "object"
    """Full name of the class."""
    __hash__ = object.__hash__  # type: ignore[assignment]

    def __new__(cls, *args: Any, **options: Any) -> Inert:
        return super().__new__(cls)

    def __init__(self, *args: Any, **options: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...

    def append(self, item: Any) -> None: ...

    def extend(self, items: Any) -> None: ...

    def add(self, item: Any) -> None: ...


def _inner_tensor(rebuild: Any, tensor_class: Any, args: tuple[Any, ...], state: Any) -> Any:
    """The plain tensor inside a tensor subclass or one with attributes."""
    return rebuild(*args)


def _parameter_data(data: Any, *rest: Any) -> Any:
    return data


ADMITTED: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": torch._utils._rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": torch._utils._rebuild_tensor_v2,
    "torch._utils._rebuild_parameter": _parameter_data,
    "torch._utils._rebuild_parameter_with_state": _parameter_data,
    "torch._tensor._rebuild_from_type_v2": _inner_tensor,
}
"""The only functions that a pickle may call; they make plain tensors."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Called for every class and function that the pickle names; imports none of them."""
        full_name = f"{module}.{name}"
        if full_name == "collections.OrderedDict":
            return OrderedDict
        if full_name in ADMITTED:
            return partial(ADMITTED[full_name])  # a new object, as a pickle can set attributes
        package = module.partition(".")[0]
        if package in ("builtins", "__builtin__"):
            is_data = name in DATA_BUILTINS
        else:
            is_data = package in DATA_MODULES or package not in sys.stdlib_module_names
        if not is_data:
            raise pickle.UnpicklingError(f"it calls {full_name}")
        return type("Inert", (Inert,), {"described": full_name})


_PICKLE = SimpleNamespace(
    __name__=__name__,
    Unpickler=_Unpickler,
    load=lambda file, **options: _Unpickler(file, **options).load(),
)
"""Passed to torch.load as the module `pickle`."""


def read_checkpoint(
    path: str | Path, *, key: str | None = None, shapes_only: bool = False
) -> dict[str, Tensor]:
    """Weights of a third-party file, under their own names.

    Reads safetensors, torch's old and new formats, and TorchScript archives as published by OpenAI. Weights
    may be at the top level or under one of WEIGHT_KEYS; `key` names the entry if there are several, or
    another one. With `shapes_only` the tensors are on the device "meta", and only names and shapes of
    torch's own format and of safetensors are read. Raises ModelError that says what the file is instead.
    """
    path = Path(path)
    form = _form(path)
    if form == "safetensors":
        content = _read_safetensors(path)
    elif form == "torchscript":
        content = _read_torchscript(path)
    else:
        content = _read_pickle(path, device="meta" if shapes_only else "cpu")
    try:
        weights = _weights_in(content, path, key)
    except RecursionError:
        raise ModelError(f"{path}: holds itself; not a checkpoint of weights alone") from None
    return {name: tensor.to("meta") for name, tensor in weights.items()} if shapes_only else weights


def _form(path: Path) -> str:
    """`safetensors`, `torchscript` or `pickle`. Raises ModelError for anything else."""
    if path.is_dir():
        raise ModelError(
            f"{path}: a folder; name the file with the weights in it, such as {path / 'model.safetensors'}"
        )
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file") from None
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror or error})") from None
    if head.startswith(b"PK"):
        return _zip_form(path)
    if head[4:9] == b"\0\0\0\0{":  # length of a header below 4 GB, and the start of the header
        return "safetensors"
    if head[:1] == b"\x80" and not tarfile.is_tarfile(path):
        return "pickle"
    raise ModelError(f"{path}: {_looks_like(head) or 'cut short, or not a checkpoint of weights'}")


def _zip_form(path: Path) -> str:
    if not zipfile.is_zipfile(path):
        raise ModelError(f"{path}: cut short (the end of its zip archive is missing)")
    with zipfile.ZipFile(path) as archive:
        names = [name.rpartition("/")[2] for name in archive.namelist()]
    if "constants.pkl" in names:
        return "torchscript"
    if "data.pkl" not in names:
        raise ModelError(f"{path}: a zip archive, but not one of torch's; unpack it and name the file in it")
    return "pickle"


def _looks_like(head: bytes) -> str | None:
    """Common other contents of files named like checkpoints, by their first bytes."""
    start = head.lstrip().lower()
    if not start:
        return "cut short: an empty file"
    if start.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS, not the file itself; fetch it with 'git lfs pull'"
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page, not a checkpoint; download the file itself"
    if start.startswith((b"{", b"[")):
        return "JSON, not weights; name the file with the weights"
    return None


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    """Tensors read from disk on access."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{path}: cut short or not a safetensors file ({error})") from None


def _read_pickle(path: Path, *, device: str) -> Any:
    try:
        with warnings.catch_warnings(action="ignore"), path.open("rb") as file:
            return torch.load(file, map_location=device, pickle_module=_PICKLE, weights_only=False)
    except Exception as error:  # damaged or hostile files can raise anything
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ModelError(f"{path}: cut short, or not a checkpoint of weights alone ({reason})") from None


def _read_torchscript(path: Path) -> dict[str, Tensor]:
    """Weights of a TorchScript archive; refuses one that would run its own code on loading."""
    try:
        with zipfile.ZipFile(path) as archive:
            code = [archive.read(name) for name in archive.namelist() if "/code/" in name]
        if any(b"__setstate__" in text for text in code):
            raise ModelError(f"{path}: a TorchScript archive that runs code when it is loaded")
        with warnings.catch_warnings(action="ignore"):
            return dict(torch.jit.load(path, map_location="cpu").state_dict())
    except (RuntimeError, OSError, zipfile.BadZipFile) as error:
        raise ModelError(f"{path}: not a TorchScript archive ({str(error).splitlines()[0]})") from None


def _weights_in(content: Any, path: Path, key: str | None) -> dict[str, Tensor]:
    """The tensors under `key`, under the only entry of WEIGHT_KEYS, or at the top level."""
    if key is not None:
        if not isinstance(content, Mapping) or key not in content:
            raise ModelError(f"{path}: has no entry '{key}'; {_entries(content)}")
        content = content[key]
    sets = [name for name in WEIGHT_KEYS if isinstance(content, Mapping) and any(_tensors(content.get(name)))]
    if len(sets) > 1:
        raise ModelError(
            f"{path}: holds several sets of weights: {', '.join(sets)}; name one with start_weights_key"
        )
    if sets:
        return _weights_in(content[sets[0]], path, None)
    weights = dict(_tensors(content, deep=False))
    if not weights:
        raise ModelError(f"{path}: holds no weights; {_entries(content)}")
    return weights


def _tensors(content: Any, *, deep: bool = True) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) pairs of a mapping; with `deep` also those under its WEIGHT_KEYS."""
    if isinstance(content, Mapping):
        for name, value in content.items():
            if isinstance(value, Tensor) and isinstance(name, str):
                yield name, value
            elif deep and name in WEIGHT_KEYS:
                yield from _tensors(value)


def _entries(content: Any) -> str:
    """Description of a file's content, for an error."""
    if isinstance(content, Inert) and not content:
        return f"it is a pickled {content.described}, which is not imported; save its state_dict() instead"
    if not isinstance(content, Mapping):
        return f"it is a pickled {type(content).__name__}"
    listed = [f"{name}{_note(value)}" for name, value in list(content.items())[:LISTED]]
    more = f" and {len(content) - LISTED} more" if len(content) > LISTED else ""
    return f"its entries: {', '.join(listed) or 'none'}{more}"


def _note(value: Any) -> str:
    pickled = isinstance(value, Inert) and not value
    return f" (a pickled {value.described}; save its state_dict() instead)" if pickled else ""
