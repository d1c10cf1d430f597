"""Rephrase narrations: each distinct text once, in shards, then aligned with the clips."""


rule rephrase_narrations:
    input:
        clips=WORKFLOW.clip_table("{dataset}", "train"),
        lists=class_lists,
    output:
        WORKFLOW.narration_table("{dataset}", "{scatteritem}"),
    log:
        f"{LOGS}/rephrase_narrations/{{dataset}}-{{scatteritem}}.log",
    benchmark:
        f"{LOGS}/benchmark/rephrase_narrations-{{dataset}}-{{scatteritem}}.tsv"
    priority: 10
    conda:
        "../envs/narrate.yaml"
    resources:
        mem_mb=growing(1500),
        runtime=growing(720),
        job_settings=lambda wildcards: json.dumps(SETTINGS.narrate.job_settings()),
    params:
        code=provider_code(PROVIDER),
        recipe=lambda wildcards: json.dumps(SETTINGS.narrate.recipe()),  # a prompt may have braces
        lists=lambda wildcards: inputs.class_list_words(WORKFLOW, wildcards.dataset),
        list_files=lambda wildcards: SOURCES.class_lists(wildcards.dataset),
        journal=lambda wildcards: WORKFLOW.narration_journal(wildcards.dataset),
    message:
        "Rephrase narrations of {wildcards.dataset} with {PROVIDER}, shard {wildcards.scatteritem}"
    shell:
        "python -m workflow_scripts.narrate {input.clips:q} --recipe {params.recipe:q} --job {resources.job_settings:q}"
        " --shard {wildcards.scatteritem} {params.lists} --journal {params.journal:q} --out {output:q}"
        " 2>&1 | to_log {log:q}"


rule estimate:
    """Estimate a language model's bill before anything is sent. Without an output, so that it always runs."""
    input:
        clips=[WORKFLOW.clip_table(dataset, "train") for dataset in REPHRASED],
    log:
        f"{LOGS}/estimate.log",
    conda:
        "../envs/narrate.yaml"
    resources:
        mem_mb=growing(2500),
        runtime=growing(30),
    params:
        datasets=lambda wildcards: json.dumps(
            {
                dataset: {
                    "clips": WORKFLOW.clip_table(dataset, "train"),
                    "journal": WORKFLOW.narration_journal(dataset),
                }
                for dataset in REPHRASED
            }
        ),
        recipe=lambda wildcards: json.dumps(SETTINGS.narrate.recipe()),
        job_settings=lambda wildcards: json.dumps(SETTINGS.narrate.job_settings()),
    message:
        "Estimate what rephrasing the narrations will cost"
    shell:
        "python -m workflow_scripts.estimate --datasets {params.datasets:q} --recipe {params.recipe:q}"
        " --job {params.job_settings:q} 2>&1 | to_log {log:q}"


rule gather_narrations:
    input:
        clips=WORKFLOW.clip_table("{dataset}", "train"),
        shards=gather.shards(WORKFLOW.narration_table("{{dataset}}", "{scatteritem}")),
    output:
        **WORKFLOW.narration_files("{dataset}"),
    log:
        f"{LOGS}/gather_narrations/{{dataset}}.log",
    benchmark:
        f"{LOGS}/benchmark/gather_narrations-{{dataset}}.tsv"
    priority: 10
    conda:
        "../envs/narrate.yaml"
    resources:
        mem_mb=growing(2500),  # 2.1 GB at 4 million narrations
        runtime=growing(30),
    params:
        journal=lambda wildcards: WORKFLOW.narration_journal(wildcards.dataset),
    message:
        "Join rephrased narrations of {wildcards.dataset}"
    shell:
        "python -m workflow_scripts.gather_narrations {input.clips:q} --shards {input.shards:q}"
        " --journal {params.journal:q} --out {output.table:q}"
        " 2>&1 | to_log {log:q}"
