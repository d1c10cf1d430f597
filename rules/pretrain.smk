"""Training of a stage from nothing or from an earlier stage's weights: contrastive and VideoMAE."""


rule pretrain_stage:
    input:
        clips=training_clips,
        chunks=training_chunks,
        packets=training_packets,
        sentences=training_sentences,
        classes=training_classes,
        start=start_model,
        start_weights=start_weights,
        validation=validation_files,
        validation_packets=validation_packets,
        anew=lambda wildcards: made_with_other_settings(wildcards.run, wildcards.stage, "model.safetensors"),
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
        runtime=lambda wildcards, attempt: growing(machine(wildcards).runtime_minutes)(wildcards, attempt),
        nodes=slurm("nodes"),
        mpi=slurm("mpi"),
        tasks=slurm("tasks"),
        tasks_per_gpu=slurm("tasks_per_gpu"),
        gpu=slurm("gpu"),
        gres=slurm("gres"),
        launcher=lambda wildcards: launcher(machine(wildcards)),
        machine=lambda wildcards: json.dumps(machine(wildcards).machine()),
    params:
        recipe=lambda wildcards: json.dumps(SETTINGS.stage(wildcards.run, wildcards.stage).recipe()),
        architecture=architecture,
        seed=SETTINGS.seed,
        folder=lambda wildcards, output: os.path.dirname(output.model),
        sentences=lambda wildcards, input: as_option("sentences", input.sentences),
        classes=lambda wildcards, input: as_option("classes", input.classes),
        start=lambda wildcards, input: as_option("start", os.path.dirname(str(input.start))),
        validation=validation_options,
    message:
        "Train {wildcards.stage} of the run {wildcards.run}"
    shell:
        "{resources.launcher} -m workflow_scripts.train --title {wildcards.run:q}/{wildcards.stage:q}"
        " --recipe {params.recipe:q} --machine {resources.machine:q} --seed {params.seed}"
        " --clips {input.clips:q} --chunks {input.chunks:q} {params.sentences} {params.classes} {params.start}"
        " --start-weights {input.start_weights:q}"
        " {params.validation}"
        " --out {params.folder:q} 2>&1 | to_log {log:q}"
