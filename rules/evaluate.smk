"""Metrics of trained stages, zero-shot and fine-tuned."""


def evaluated(wildcards):
    return SETTINGS.evaluations[wildcards.evaluation]


def evaluation_sentences(wildcards):
    """The sentences of EPIC-KITCHENS retrieval; other layouts are searched by their own texts."""
    entry = evaluated(wildcards)
    has_sentences = SETTINGS.datasets[entry.dataset].layout == "ek100" and entry.kind == "retrieval"
    return clip_table(entry.dataset, "sentences_test") if has_sentences else []


def evaluation_classes(wildcards):
    entry = evaluated(wildcards)
    return f"{DATA}/{entry.dataset}/clips/classes.json" if entry.kind == "recognition" else []


rule evaluate_stage:
    input:
        model=lambda wildcards: f"{stage_folder(wildcards.run, evaluated(wildcards).stage)}/model.safetensors",
        chunks=lambda wildcards: f"{DATA}/{evaluated(wildcards).dataset}/chunks.parquet",
        clips=lambda wildcards: evaluation_table(evaluated(wildcards).dataset),
        sentences=evaluation_sentences,
        classes=evaluation_classes,
    output:
        metrics=f"{RESULTS}/{{run}}/{{evaluation}}/metrics.json",
        outputs=f"{RESULTS}/{{run}}/{{evaluation}}/outputs.safetensors",
        manifest=f"{RESULTS}/{{run}}/{{evaluation}}/manifest.json",
    log:
        f"{LOGS}/evaluate/{{run}}-{{evaluation}}.log",
    benchmark:
        f"{LOGS}/benchmark/evaluate-{{run}}-{{evaluation}}.tsv"
    conda:
        lambda wildcards: ("../envs/gpu.yaml" if evaluated(wildcards).gpus else "../envs/train.yaml")
    threads: lambda wildcards: evaluated(wildcards).threads
    resources:
        mem_mb=lambda wildcards: evaluated(wildcards).memory_mb,
        runtime=120,
        gpu=lambda wildcards: evaluated(wildcards).gpus,
    params:
        code=library("evaluate/*.py"),
        settings=lambda wildcards: evaluated(wildcards).model_dump_json(
            exclude={"memory_mb", "threads", "gpus"}
        ),
        model=lambda wildcards, input: os.path.dirname(input.model),
        sentences=lambda wildcards, input: as_option("sentences", input.sentences),
        classes=lambda wildcards, input: as_option("classes", input.classes),
        folder=f"{RESULTS}/{{run}}/{{evaluation}}",
    message:
        "Evaluate {wildcards.evaluation} of the run {wildcards.run}"
    shell:
        "python {SCRIPTS}/evaluate.py --title {wildcards.run}/{wildcards.evaluation}"
        " --settings {params.settings:q} --threads {threads} --gpus {resources.gpu} --model {params.model}"
        " --chunks {input.chunks} --clips {input.clips} {params.sentences} {params.classes}"
        " --out {params.folder} 2>&1 | tee {log}"
