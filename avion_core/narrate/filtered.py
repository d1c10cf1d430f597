"""Leaves out the texts of clips that the filters judge so, and counts them, with examples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from avion_core.config import FilterSettings
from avion_core.narrate.class_lists import ClassLists
from avion_core.narrate.cosines import Cosines
from avion_core.narrate.quality import Judge

FILTERED = "every text was filtered"
"""Reason of a clip whose texts are all left out."""
COLUMNS = ("video_id", "start_s", "end_s", "texts", "human", "scores")
"""Of a table to filter: clips, texts to judge, human narrations and, if there are any, scores."""
EXAMPLES = 4
"""Left-out texts that the summary holds for each filter."""


class Filtered:
    """Filters the texts of a table, batch by batch from its first row on."""

    def __init__(
        self,
        filters: FilterSettings,
        *,
        class_lists: ClassLists | None = None,
        cosines: Cosines | None = None,
    ) -> None:
        self._judge = Judge(filters, class_lists=class_lists)
        self._cosines = cosines
        self._counts: Counter[str] = Counter()
        self._examples: dict[str, list[dict[str, Any]]] = {}
        self._written = 0

    def places(self, batch: pa.RecordBatch) -> Iterator[list[int]]:
        """For each row of the next batch, the places of the texts that stay; its columns are COLUMNS."""
        cosines = [None] * len(batch) if self._cosines is None else self._cosines.of(batch)
        rows = batch.select([name for name in COLUMNS if name in batch.schema.names]).to_pylist()
        for row, own in zip(rows, cosines, strict=True):
            texts, human = row["texts"], row["human"] or []
            verdicts = self._judge.judge(texts, human=human, scores=row.get("scores"), cosines=own)
            self._written += len(texts)
            for place, verdict in enumerate(verdicts):
                if verdict is not None:
                    self._leave_out(verdict, row, place, own)
            yield [place for place, verdict in enumerate(verdicts) if verdict is None]

    def _leave_out(
        self, verdict: str, row: Mapping[str, Any], place: int, cosines: Sequence[float] | None
    ) -> None:
        self._counts[verdict] += 1
        examples = self._examples.setdefault(verdict, [])
        if len(examples) < EXAMPLES:
            clip = {name: row[name] for name in ("video_id", "start_s", "end_s")}
            beside = {} if cosines is None else {"cosine": cosines[place]}
            human = row["human"] or [""]
            examples.append({**clip, "text": row["texts"][place], "human": human[0], **beside})

    def summary(self) -> dict[str, Any]:
        """Texts written, left out by filter, examples of those, and how the cosines are distributed."""
        counts = self._counts.most_common()
        return {
            "written": self._written,
            "filtered": dict(counts),
            "examples": {name: self._examples[name] for name, _ in counts},
            **({} if self._cosines is None else {"cosines": self._cosines.distribution()}),
        }
