"""Training of a stage from nothing or from an earlier stage's weights: contrastive and VideoMAE."""


def training_clips(wildcards):
    """Clip tables a stage trains on."""
    recipe = SETTINGS.stage(wildcards.run, wildcards.stage)
    human, rephrased = clip_table(recipe.dataset, "train"), narration_table(recipe.dataset)
    return [human if kind == "human" else rephrased for kind in recipe.narrations]


def training_chunks(wildcards):
    return f"{DATA}/{SETTINGS.stage(wildcards.run, wildcards.stage).dataset}/chunks.parquet"


def training_sentences(wildcards):
    recipe = SETTINGS.stage(wildcards.run, wildcards.stage)
    return clip_table(recipe.dataset, "sentences_train") if recipe.task == "relevancy" else []


def training_classes(wildcards):
    recipe = SETTINGS.stage(wildcards.run, wildcards.stage)
    return f"{DATA}/{recipe.dataset}/clips/classes.json" if recipe.task == "classification" else []


def start_model(wildcards):
    """Weights of the stage that this one starts from."""
    start = SETTINGS.stage(wildcards.run, wildcards.stage).start
    return f"{stage_folder(wildcards.run, start)}/model.safetensors" if start else []


def machine(wildcards):
    return SETTINGS.stage(wildcards.run, wildcards.stage)


def launcher(wildcards):
    """One process is plain Python; more are started by torchrun on the job's node."""
    processes = machine(wildcards).processes
    return f"torchrun --standalone --nproc-per-node={processes}" if processes > 1 else "python"


rule pretrain_stage:
    input:
        clips=training_clips,
        chunks=training_chunks,
        sentences=training_sentences,
        classes=training_classes,
        start=start_model,
    output:
        model=f"{RESULTS}/{{run}}/{{stage}}/model.safetensors",
        description=f"{RESULTS}/{{run}}/{{stage}}/model.json",
        curve=f"{RESULTS}/{{run}}/{{stage}}/train.jsonl",
        manifest=f"{RESULTS}/{{run}}/{{stage}}/manifest.json",
    log:
        f"{LOGS}/train/{{run}}-{{stage}}.log",
    benchmark:
        f"{LOGS}/benchmark/train-{{run}}-{{stage}}.tsv"
    wildcard_constraints:
        stage=one_of(PRETRAIN_STAGES),
    conda:
        lambda wildcards: ("../envs/gpu.yaml" if machine(wildcards).gpus else "../envs/train.yaml")
    threads: lambda wildcards: machine(wildcards).threads * machine(wildcards).processes
    resources:
        mem_mb=lambda wildcards: machine(wildcards).memory_mb,
        runtime=lambda wildcards, attempt: machine(wildcards).runtime_minutes * 2 ** (attempt - 1),
        gpu=lambda wildcards: machine(wildcards).gpus,
        nodes=1,  # torchrun --standalone; without it Slurm may take the GPUs from several nodes
        launcher=launcher,
        machine=lambda wildcards: json.dumps(machine(wildcards).machine()),
    params:
        recipe=lambda wildcards: json.dumps(SETTINGS.stage(wildcards.run, wildcards.stage).recipe()),
        seed=SETTINGS.seed,
        folder=f"{RESULTS}/{{run}}/{{stage}}",
        sentences=lambda wildcards, input: as_option("sentences", input.sentences),
        classes=lambda wildcards, input: as_option("classes", input.classes),
        start=lambda wildcards, input: as_option("start", os.path.dirname(str(input.start))),
    message:
        "Train {wildcards.stage} of the run {wildcards.run}"
    shell:
        "{resources.launcher} {SCRIPTS}/train.py --title {wildcards.run}/{wildcards.stage}"
        " --recipe {params.recipe:q} --machine {resources.machine:q} --seed {params.seed}"
        " --clips {input.clips} --chunks {input.chunks} {params.sentences} {params.classes} {params.start}"
        " --out {params.folder} 2>&1 | tee {log}"
