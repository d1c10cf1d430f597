"""Evaluate trained stages, zero-shot and fine-tuned."""


rule evaluate_stage:
    input:
        unpack(lambda wildcards: inputs.evaluation_files(WORKFLOW, evaluated(wildcards))),
        model=lambda wildcards: WORKFLOW.model(wildcards.run, evaluated(wildcards).stage),
        packets=lambda wildcards: WORKFLOW.packets(evaluated(wildcards).dataset),
        anew=lambda wildcards: REMAKES.result(wildcards.run, wildcards.evaluation, "metrics.json"),
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
        job_settings=lambda wildcards: json.dumps(evaluated(wildcards).job_settings()),
    params:
        code=lambda wildcards: evaluation_code(evaluated(wildcards).kind),
        recipe=lambda wildcards: json.dumps(evaluated(wildcards).recipe()),
        model=lambda wildcards, input: os.path.dirname(input.model),
        files=lambda wildcards, input: file_words(
            named_files(input.items(), leave_out=["model", "packets", "anew"])
        ),
        folder=lambda wildcards, output: os.path.dirname(output.metrics),
    message:
        "Evaluate {wildcards.evaluation} of the run {wildcards.run}"
    shell:
        "python -m workflow_scripts.evaluate --title {wildcards.run:q}/{wildcards.evaluation:q}"
        " --recipe {params.recipe:q} --job {resources.job_settings:q} --model {params.model:q}"
        " --files {params.files} --out {params.folder:q} 2>&1 | to_log {log:q}"
