"""Official files as their owners publish them; the toy kitchen renders its own."""


def source_files(dataset):
    """Files of the user's that decide what a data set is."""
    folder = SETTINGS.datasets[dataset].folder
    return [folder.narrations] if folder else []


def toy_kitchen_settings(dataset):
    """The generator's settings where they matter, so that they refetch nothing else."""
    toy = SETTINGS.datasets[dataset].source == "toy_kitchen"
    return SETTINGS.toy_kitchen.model_dump_json() if toy else "{}"


rule fetch_dataset:
    input:
        lambda wildcards: source_files(wildcards.dataset),
    output:
        videos=f"{DATA}/{{dataset}}/videos.parquet",
    log:
        f"{LOGS}/fetch_dataset/{{dataset}}.log",
    benchmark:
        f"{LOGS}/benchmark/fetch_dataset-{{dataset}}.tsv"
    conda:
        "../envs/media.yaml"
    resources:
        mem_mb=1500,
        runtime=240,
    params:
        settings=lambda wildcards: SETTINGS.datasets[wildcards.dataset].source_json(),
        toy_kitchen=lambda wildcards: toy_kitchen_settings(wildcards.dataset),
        raw=f"{DATA}/{{dataset}}/raw",
    message:
        "Fetch the data set {wildcards.dataset}"
    shell:
        "python {SCRIPTS}/download.py {wildcards.dataset} --settings {params.settings:q}"
        " --toy-kitchen {params.toy_kitchen:q} --raw {params.raw} --videos {output.videos}"
        " 2>&1 | tee {log}"
