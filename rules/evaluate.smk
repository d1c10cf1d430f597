"""Metrics of trained stages, zero-shot and fine-tuned."""


rule evaluate_stage:
    input:
        model=lambda wildcards: f"{stage_folder(wildcards.run, evaluated(wildcards).stage)}/model.safetensors",
        chunks=lambda wildcards: f"{DATA}/{evaluated(wildcards).dataset}/chunks.parquet",
        packets=lambda wildcards: f"{DATA}/{evaluated(wildcards).dataset}/packets.npy",
        clips=lambda wildcards: evaluation_table(evaluated(wildcards).dataset),
        sentences=evaluation_sentences,
        classes=evaluation_classes,
        anew=lambda wildcards: made_with_other_settings(wildcards.run, wildcards.evaluation, "metrics.json"),
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
        runtime=growing(120),
        gpu=lambda wildcards: evaluated(wildcards).gpus,
        machine=lambda wildcards: json.dumps(evaluated(wildcards).machine()),
    params:
        code=library("evaluate/*.py"),
        recipe=lambda wildcards: json.dumps(evaluated(wildcards).recipe()),
        model=lambda wildcards, input: os.path.dirname(input.model),
        sentences=lambda wildcards, input: as_option("sentences", input.sentences),
        classes=lambda wildcards, input: as_option("classes", input.classes),
        folder=lambda wildcards, output: os.path.dirname(output.metrics),
    message:
        "Evaluate {wildcards.evaluation} of the run {wildcards.run}"
    shell:
        "python -m workflow_scripts.evaluate --title {wildcards.run:q}/{wildcards.evaluation:q}"
        " --recipe {params.recipe:q} --machine {resources.machine:q} --model {params.model:q}"
        " --chunks {input.chunks:q} --clips {input.clips:q} {params.sentences} {params.classes}"
        " --out {params.folder:q} 2>&1 | to_log {log:q}"
