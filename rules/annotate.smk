"""One clip table per split, one schema for all layouts."""

for layout, tables in TABLES.items():

    rule:
        name:
            f"annotate_{layout}"
        input:
            videos=lambda wildcards: fetched_annotations(wildcards.dataset),
            chunks=f"{DATA}/{{dataset}}/chunks.parquet",
            packets=f"{DATA}/{{dataset}}/packets.npy",
        output:
            [clip_table("{dataset}", table) for table in tables],
            [f"{DATA}/{{dataset}}/clips/classes.json"] if layout in LABELS else [],
            dropped=f"{DATA}/{{dataset}}/clips/dropped.json",
            listed=f"{DATA}/{{dataset}}/clips/dropped.csv",
        log:
            f"{LOGS}/annotate/{{dataset}}.log",
        benchmark:
            f"{LOGS}/benchmark/annotate-{{dataset}}.tsv"
        wildcard_constraints:
            dataset=one_of(datasets_of_layout(layout)),
        priority: 10
        conda:
            "../envs/media.yaml"
        resources:
            mem_mb=growing(4000),  # 3.4 GB at 4 million narrations
            runtime=growing(60),
        params:
            code=library(
                "data/annotate.py",
                "data/annotation_files.py",
                "data/clips.py",
                "data/dropped.py",
                "data/repeats.py",
                "data/tables.py",
                "data/source_videos.py",
                f"data/{layout}.py",
            ),
            recipe=lambda wildcards: json.dumps(SETTINGS.datasets[wildcards.dataset].annotation_recipe()),
            annotations=lambda wildcards: annotations_digest(wildcards.dataset),
            raw=f"{DATA}/{{dataset}}/raw",
            clips=f"{DATA}/{{dataset}}/clips",
        message:
            "Clip tables of {wildcards.dataset}"
        shell:
            "python -m workflow_scripts.annotate {wildcards.dataset:q} --recipe {params.recipe:q}"
            " --raw {params.raw:q} --videos {input.videos:q} --chunks {input.chunks:q} --clips {params.clips:q}"
            " 2>&1 | to_log {log:q}"
