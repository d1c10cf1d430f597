"""One clip table per split, one schema for all layouts."""

for layout, names in WORKFLOW.by_layout().items():

    rule:
        name:
            f"annotate_{layout}"
        input:
            videos=lambda wildcards: list_of_videos(
                wildcards.dataset, same=SOURCES.same_annotations(wildcards.dataset)
            ),
            chunks=f"{DATA}/{{dataset}}/chunks.parquet",
            packets=f"{DATA}/{{dataset}}/packets.npy",
        output:
            [WORKFLOW.clips("{dataset}", file) for file in LAYOUTS[layout].files],
            dropped=f"{DATA}/{{dataset}}/clips/dropped.json",
            listed=f"{DATA}/{{dataset}}/clips/dropped.csv",
        log:
            f"{LOGS}/annotate/{{dataset}}.log",
        benchmark:
            f"{LOGS}/benchmark/annotate-{{dataset}}.tsv"
        wildcard_constraints:
            dataset=one_of(names),
        priority: 10
        conda:
            "../envs/media.yaml"
        resources:
            mem_mb=growing(5000),  # 3.4 GB at 4 million narrations, 1 GB more with tags
            runtime=growing(60),
        params:
            code=annotation_code(layout),
            record=lambda wildcards: annotation_record(SETTINGS.datasets[wildcards.dataset]),
            recipe=lambda wildcards, input: json.dumps(
                SETTINGS.datasets[wildcards.dataset].annotation_recipe()
            ),
            annotations=lambda wildcards: SOURCES.annotations(wildcards.dataset),
            raw=f"{DATA}/{{dataset}}/raw",
            clips=f"{DATA}/{{dataset}}/clips",
        message:
            "Clip tables of {wildcards.dataset}"
        shell:
            "python -m workflow_scripts.annotate {wildcards.dataset:q} --recipe {params.recipe:q}"
            " --raw {params.raw:q} --videos {input.videos:q} --chunks {input.chunks:q} --clips {params.clips:q}"
            " 2>&1 | to_log {log:q}"
