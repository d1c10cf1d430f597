"""Fetch official files as published by their owners; the toy kitchen renders its own."""


rule fetch_dataset:
    output:
        videos=f"{DATA}/{{dataset}}/videos.parquet",
    log:
        f"{LOGS}/fetch_dataset/{{dataset}}.log",
    benchmark:
        f"{LOGS}/benchmark/fetch_dataset-{{dataset}}.tsv"
    priority: 10
    conda:
        "../envs/media.yaml"
    resources:
        mem_mb=growing(3000),  # 2.5 GB at 4 million narrations
        runtime=growing(240),
        settings=lambda wildcards: SETTINGS.datasets[wildcards.dataset].source_json(),
    params:
        source=lambda wildcards: SOURCES.digest(wildcards.dataset),
        home=f"{DATA}/{{dataset}}",
    message:
        "Fetch the data set {wildcards.dataset}"
    shell:
        "python -m workflow_scripts.download {wildcards.dataset:q} --settings {resources.settings:q}"
        " --home {params.home:q} 2>&1 | to_log {log:q}"


rule fetch_weights:
    output:
        weights=f"{DATA}/weights/open_clip/{{open_clip_model}}/{{tag}}",
    log:
        f"{LOGS}/fetch_weights/{{open_clip_model}}-{{tag}}.log",
    benchmark:
        f"{LOGS}/benchmark/fetch_weights-{{open_clip_model}}-{{tag}}.tsv"
    wildcard_constraints:
        open_clip_model="[^/]+",
        tag="[^/]+",
    priority: 20
    conda:
        "../envs/train.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(120),
    message:
        "Fetch the weights {wildcards.open_clip_model}/{wildcards.tag} of open_clip"
    shell:
        "python -m workflow_scripts.fetch_weights open_clip:{wildcards.open_clip_model}/{wildcards.tag}"
        " --out {output.weights:q} 2>&1 | to_log {log:q}"
