"""Transcode videos into chunks for random access, with an index. Bad videos are quarantined with a reason."""


rule transcode_videos:
    input:
        videos=lambda wildcards: list_of_videos(
            wildcards.dataset, same=SOURCES.same_videos(wildcards.dataset)
        ),
        anew=lambda wildcards: REMAKES.shard(wildcards.dataset, wildcards.scatteritem),
    output:
        index=f"{DATA}/{{dataset}}/chunks/{{scatteritem}}.parquet",
        quarantine=f"{DATA}/{{dataset}}/chunks/{{scatteritem}}.quarantine.json",
    log:
        f"{LOGS}/transcode_videos/{{dataset}}-{{scatteritem}}.log",
    benchmark:
        f"{LOGS}/benchmark/transcode_videos-{{dataset}}-{{scatteritem}}.tsv"
    priority: 10
    conda:
        "../envs/media.yaml"
    resources:
        mem_mb=growing(1000),
        runtime=lambda wildcards, input, attempt: growing(
            shard_minutes(
                Path(str(input.videos)),
                wildcards.scatteritem,
                minutes_per_gb=SETTINGS.transcode_minutes_per_gb,
            )
        )(wildcards, attempt),
    params:
        settings=lambda wildcards: SETTINGS.datasets[wildcards.dataset].transcode.model_dump_json(),
        videos=lambda wildcards: SOURCES.videos(wildcards.dataset),
        chunks=f"{DATA}/{{dataset}}/chunks",
    message:
        "Transcode {wildcards.dataset}, shard {wildcards.scatteritem}"
    shell:
        "python -m workflow_scripts.transcode {input.videos:q} --settings {params.settings:q}"
        " --shard {wildcards.scatteritem} --chunks {params.chunks:q}"
        " --index {output.index:q} --quarantine {output.quarantine:q} 2>&1 | to_log {log:q}"


rule gather_chunks:
    input:
        shards=gather.shards(f"{DATA}/{{{{dataset}}}}/chunks/{{scatteritem}}.parquet"),
        quarantines=gather.shards(f"{DATA}/{{{{dataset}}}}/chunks/{{scatteritem}}.quarantine.json"),
    output:
        index=f"{DATA}/{{dataset}}/chunks.parquet",
        packets=f"{DATA}/{{dataset}}/packets.npy",
        quarantine=f"{DATA}/{{dataset}}/quarantine.json",
    log:
        f"{LOGS}/gather_chunks/{{dataset}}.log",
    benchmark:
        f"{LOGS}/benchmark/gather_chunks-{{dataset}}.tsv"
    priority: 10
    conda:
        "../envs/media.yaml"
    resources:
        mem_mb=growing(1000),
        runtime=growing(30),
    message:
        "Index the chunks of {wildcards.dataset}"
    shell:
        "python -m workflow_scripts.gather_chunks --shards {input.shards:q} --quarantines {input.quarantines:q}"
        " --index {output.index:q} --quarantine {output.quarantine:q} 2>&1 | to_log {log:q}"
