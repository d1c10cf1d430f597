"""A small EPIC-KITCHENS-100: its annotation files."""

from pathlib import Path


def write_epic(origin: Path) -> None:
    """Two training videos with two and one clips, a validation video with one."""
    header = (
        "narration_id,video_id,start_timestamp,stop_timestamp,narration,verb_class,noun_class,"
        "all_noun_classes\n"
    )
    row = "{id},{video},00:00:01.00,00:00:02.00,take cup,0,0,[0]\n"
    clips = {"train": ["P01_01", "P01_01", "P01_02"], "validation": ["P02_01"]}
    (origin / "retrieval_annotations").mkdir(parents=True)
    for split, videos in clips.items():
        rows = [row.format(id=f"{video}_{split}{n}", video=video) for n, video in enumerate(videos)]
        (origin / f"EPIC_100_{split}.csv").write_text(header + "".join(rows))
    for split, name in (("train", "P01_01_train0"), ("test", "P02_01_validation0")):
        path = origin / f"retrieval_annotations/EPIC_100_retrieval_{split}_sentence.csv"
        path.write_text(f"narration_id,narration\n{name},take cup\n")
    for kind in ("verb", "noun"):
        (origin / f"EPIC_100_{kind}_classes.csv").write_text("id,key,instances\n0,take,['take']\n")
