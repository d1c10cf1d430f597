"""Bad clips of a training over several legs."""

from __future__ import annotations

from dataclasses import asdict

from avion_core.data.clips import BadClip
from avion_core.train.log import BadClips

TORN = BadClip("v", 3, 0.0, 1.5, "cut short")


def test_a_clip_of_an_earlier_versions_checkpoint_is_not_listed_again() -> None:
    earlier = {name: value for name, value in asdict(TORN).items() if not name.endswith("_s")}
    bad = BadClips()
    bad.restore([{"clips": [earlier], "logged": 1}], rank=0, size=1)
    bad.take_in([TORN])
    assert bad.not_yet_logged() == []
    other = BadClip("v", 4, 0.0, 1.5, "cut short")
    bad.take_in([TORN, other])
    bad.take_in([TORN, other])
    assert bad.not_yet_logged() == [asdict(other)]
