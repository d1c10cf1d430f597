"""Predict the hours of the selected runs' trainings, before anything is made: `snakemake --cores 1 plan`.

Without an output, so that it always runs.
"""


rule plan:
    log:
        f"{LOGS}/plan.log",
    conda:
        "../envs/train.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        settings=lambda wildcards: SETTINGS.model_dump_json(exclude_unset=True),
        measured=f"{workflow.basedir}/benchmarks/results/gpu.json",
    message:
        "Predict the hours of the trainings"
    shell:
        "python -m workflow_scripts.plan --settings {params.settings:q} --measured {params.measured:q}"
        " 2>&1 | to_log {log:q}"
