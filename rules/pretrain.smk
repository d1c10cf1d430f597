"""Train a stage from scratch or from an earlier stage's weights: contrastive and VideoMAE."""


rule pretrain_stage:
    input:
        unpack(lambda wildcards: inputs.training_files(WORKFLOW, wildcards.run, wildcards.stage)),
        unpack(lambda wildcards: inputs.validation_files(WORKFLOW, wildcards.run, wildcards.stage)),
        packets=lambda wildcards: inputs.training_packets(WORKFLOW, wildcards.run, wildcards.stage),
        start_weights=start_weights,
        anew=lambda wildcards: REMAKES.result(wildcards.run, wildcards.stage, "model.safetensors"),
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
        lambda wildcards: ("../envs/gpu.yaml" if stage_of(wildcards).gpus else "../envs/train.yaml")
    threads: lambda wildcards: stage_of(wildcards).threads * stage_of(wildcards).processes
    resources:
        mem_mb=lambda wildcards: stage_of(wildcards).memory_mb,
        runtime=lambda wildcards, attempt: growing(stage_of(wildcards).runtime_minutes)(wildcards, attempt),
        nodes=slurm("nodes"),
        mpi=slurm("mpi"),
        tasks=slurm("tasks"),
        tasks_per_gpu=slurm("tasks_per_gpu"),
        gpu=slurm("gpu"),
        gres=slurm("gres"),
        launcher=lambda wildcards: launcher(stage_of(wildcards)),
        job_settings=lambda wildcards: json.dumps(stage_of(wildcards).job_settings()),
    params:
        record=lambda wildcards: RECORDS.recipe(
            WORKFLOW.model(wildcards.run, wildcards.stage), stage_of(wildcards)
        ),
        recipe=lambda wildcards, input: json.dumps(stage_of(wildcards).recipe()),
        architecture=lambda wildcards: load_architecture(stage_of(wildcards).model).model_dump_json(),
        seed=lambda wildcards: SETTINGS.seed_of(wildcards.run),
        folder=lambda wildcards, output: os.path.dirname(output.model),
        files=lambda wildcards, input: file_words(named_files(input.items(), leave_out=["packets", "anew"])),
        validation=lambda wildcards, input: inputs.validation_words(WORKFLOW, wildcards.run, wildcards.stage),
    message:
        "Train {wildcards.stage} of the run {wildcards.run}"
    shell:
        "{resources.launcher} -m workflow_scripts.train --title {wildcards.run:q}/{wildcards.stage:q}"
        " --recipe {params.recipe:q} --job {resources.job_settings:q} --seed {params.seed}"
        " --files {params.files} {params.validation}"
        " --out {params.folder:q} 2>&1 | to_log {log:q}"
