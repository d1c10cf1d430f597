"""What a server of the provider `vision` takes: found by a probe before the first clip, and kept.

The probe sends pictures of one colour each, in the form of a clip's request: first all frames with all
choices, then without the choices, then as one contact sheet. The first form that is answered is used for all
clips. What the client learns on the way (schema, name of the token limit, reasoning) is kept too.
"""

from __future__ import annotations

import fcntl
import math
import re
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from avion_core.config import NarratorSettings, VisionSettings
from avion_core.files import fingerprint, read_json, write_json
from avion_core.narrate.budget import message_tokens
from avion_core.narrate.exchange import Answer, Books, NoAnswer, ProviderError, Request
from avion_core.narrate.request_form import RequestForm

SERVER_FILE = "server.json"
"""In the journal's folder; may be deleted, and is, when a server refuses what it says."""
PROBED = "probe"
"""What the journal calls the probe's requests."""
UNKNOWN_IMAGE_TOKENS = 5000
"""Bound on an image's tokens while none was counted; 4 tiles of a detailed picture are less."""
SLACK = 1.25
"""Bound on an image's tokens over the number counted in the probe."""


@dataclass(frozen=True)
class VisionServer:
    """How a clip is sent to a server."""

    sheet: bool
    """Whether a clip's frames are sent as one contact sheet."""
    choices: bool
    """Whether the texts of a clip are sampled as choices of one request (`n`)."""
    tokens_per_image: float
    """Input tokens of an image."""
    measured: bool
    """Whether the server counted them."""
    form: RequestForm

    @classmethod
    def assumed(cls, vision: VisionSettings) -> VisionServer:
        """What the settings allow, before the server is asked."""
        limit = vision.images_per_request
        return cls(
            sheet=limit is not None and limit < vision.frames,
            choices=True,
            tokens_per_image=vision.tokens_per_image,
            measured=False,
            form=RequestForm(schema=vision.schema_bound),
        )

    def images_of_a_clip(self, vision: VisionSettings) -> int:
        """Images in a clip's request."""
        return 1 if self.sheet else vision.frames

    def most_image_tokens(self, images: int) -> int:
        """Bound on the input tokens of this many images."""
        each = (
            SLACK * self.tokens_per_image
            if self.measured
            else max(self.tokens_per_image, UNKNOWN_IMAGE_TOKENS)
        )
        return math.ceil(images * each)


class RequestOf(Protocol):
    """Makes a clip's request in the form that a server takes."""

    def __call__(
        self, frames_THWC: NDArray[np.uint8], server: VisionServer, *, number: int, name: str
    ) -> Request: ...


def kept_server(folder: Path, settings: NarratorSettings) -> VisionServer | None:
    """What an earlier probe found for these settings; None if there was none."""
    try:
        found = read_json(folder / SERVER_FILE)
        if found.pop("asked") == _asked(settings):
            return VisionServer(**{**found, "form": RequestForm(**found["form"])})
    except (OSError, ValueError, TypeError, AttributeError, KeyError):
        pass
    return None


def forget_server(folder: Path) -> None:
    """Remove what a probe found, so that the next run asks again."""
    (folder / SERVER_FILE).unlink(missing_ok=True)


def learn_server(
    folder: Path, client: Any, books: Books, *, settings: NarratorSettings, request: RequestOf
) -> VisionServer:
    """What the server takes, from an earlier probe or a new one; sets the client's form.

    Shards that start at the same time wait for the first one's probe. Raises ProviderError if the server
    takes no images.
    """
    with _one_at_a_time(folder / f"{SERVER_FILE}.lock"):
        found = kept_server(folder, settings)
        if found is None:
            found = _probe(client, books, settings=settings, request=request)
            write_json(folder / SERVER_FILE, {"asked": _asked(settings), **asdict(found)})
    client.form = found.form
    return found


def _asked(settings: NarratorSettings) -> str:
    """Digest of what the probe depends on."""
    vision = settings.of(VisionSettings)
    names = (
        "base_url",
        "model",
        "temperature",
        "frames",
        "image_size_px",
        "images_per_request",
        "schema_bound",
    )
    own = {name: getattr(vision, name) for name in names}
    own["base_url"] = _without_local_port(vision.base_url)
    own |= {name: value for name, value in vision.recipe().items() if name == "client"}
    return fingerprint({**own, "texts": settings.texts_per_clip})


def _without_local_port(address: str | None) -> str | None:
    """The address; a server of this machine may have another port each time."""
    return address and re.sub(r"^(https?://127\.0\.0\.1):\d+", r"\1", address)


def _probe(client: Any, books: Any, *, settings: NarratorSettings, request: RequestOf) -> VisionServer:
    """Try one form after another. Raises ProviderError if none is answered."""
    vision = settings.of(VisionSettings)
    frames_THWC = probe_pictures(vision.frames, vision.image_size_px)
    reason = ""
    for number, form in enumerate(_forms(vision, settings.texts_per_clip), 1):
        key = fingerprint([_asked(settings), number])
        asked = request(frames_THWC, form, number=-1 - number, name=PROBED)
        asked = replace(asked, keys=(key,))
        ((_, outcome),) = client.answers(deque([asked]), books)
        if isinstance(outcome, NoAnswer):
            reason = reason or outcome.reason
            continue
        books.settle(asked, outcome, usable=[True], parser="00000000")
        return _said(_learnt(form, asked, outcome, client.form), vision, reason)
    raise ProviderError(
        f"the model '{vision.model}' on {vision.address} answers text but no request with "
        f"images ({reason}); set {vision.where}.model to one that takes images"
    )


def _forms(vision: VisionSettings, texts: int) -> Iterator[VisionServer]:
    """Forms to try, the best first."""
    best = VisionServer.assumed(vision)
    for sheet in dict.fromkeys([best.sheet, vision.frames > 1]):
        for choices in dict.fromkeys([texts > 1, False]):
            yield replace(best, sheet=sheet, choices=choices)


def _learnt(form: VisionServer, asked: Request, answer: Answer, client_form: RequestForm) -> VisionServer:
    """What an answered form shows. A server that ignores `n` sends one choice."""
    found = replace(form, choices=form.choices and len(answer.others) + 1 == asked.choices, form=client_form)
    images = sum(part["type"] == "image_url" for part in asked.messages[-1]["content"])
    if answer.usage is None:
        return found
    each = (answer.usage.input_tokens - message_tokens(asked.messages)) / images
    return replace(found, tokens_per_image=max(each, 1.0), measured=True)


def _said(found: VisionServer, vision: VisionSettings, reason: str) -> VisionServer:
    images = "a contact sheet of the frames" if found.sheet else f"{vision.frames} images"
    texts = "all texts of a clip sampled at once" if found.choices else "the texts of a clip in one reply"
    schema = "bound to a schema" if found.form.schema else "no schema"
    counted = f", about {found.tokens_per_image:.0f} tokens an image" if found.measured else ""
    refused = f" (more was refused: {reason})" if reason else ""
    with suppress(BrokenPipeError):
        print(
            f"narrate clips: the server takes {images} in a request, {texts}, {schema}{counted}{refused}",
            file=sys.stderr,
            flush=True,
        )
    return found


def probe_pictures(frames: int, size_px: int) -> NDArray[np.uint8]:
    """Pictures of different greys, uint8 [frames, size_px, size_px, 3]."""
    greys = np.linspace(32, 224, frames).astype(np.uint8)
    return np.broadcast_to(greys[:, None, None, None], (frames, size_px, size_px, 3)).copy()


@contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """Run the body under a lock, where the file system has any."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
