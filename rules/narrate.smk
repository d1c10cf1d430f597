"""Narrations beside the human ones, in shards.

Rephrased: each distinct text once, then aligned with the clips. Narrated from frames: each clip, and windows over
stretches without narrations.
"""


rule rephrase_narrations:
    input:
        clips=WORKFLOW.clip_table("{dataset}", "train"),
        lists=class_lists,
        server=WORKFLOW.local_server(looks=False) or [],
        before=lambda wildcards: shared_tables(wildcards)[0],
        after=lambda wildcards: shared_tables(wildcards)[1],
    output:
        WORKFLOW.narration_table("{dataset}", "{scatteritem}"),
    log:
        f"{LOGS}/rephrase_narrations/{{dataset}}-{{scatteritem}}.log",
    benchmark:
        f"{LOGS}/benchmark/rephrase_narrations-{{dataset}}-{{scatteritem}}.tsv"
    priority: 10
    conda:
        "../envs/narrate.yaml"
    threads: 0 if WORKFLOW.local_server(looks=False) else 1  # it waits for the server, which has the cores
    resources:
        mem_mb=growing(1500),
        runtime=growing(SETTINGS.narrate.own.job_minutes),
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
        " --shard {wildcards.scatteritem} {params.lists} --before {input.before:q} --after {input.after:q}"
        " --journal {params.journal:q} --server {input.server:q} --out {output:q} 2>&1 | to_log {log:q}"


if SETTINGS.local_models():

    rule local_server:
        """Serve a language model while others use it: Snakemake runs them at once, and stops this one last."""
        output:
            service(f"{LOGS}/local_server.json"),
        log:
            f"{LOGS}/local_server.log",
        conda:
            "../envs/narrate.yaml"
        threads: SETTINGS.local_server.threads
        resources:  # another parameter would trigger the jobs that use the server
            server=lambda wildcards: SETTINGS.local_server.model_dump_json(),
            names=lambda wildcards: shlex.join(
                sorted({model.model for model in SETTINGS.local_models().values()})
            ),
            images=WORKFLOW.images_of_local_server(),
        message:
            "Serve the language model {SETTINGS.local_server.model}"
        shell:  # Snakemake stops the shell, which stops the program and waits for it
            "printf '{{\"pid\": %d}}' $$ >{output:q}; python -m workflow_scripts.local_server"
            " --settings {resources.server:q} --names {resources.names} --images {resources.images} --threads {threads}"
            " --run $PPID --state {output:q} --log {log:q} >{log:q} 2>&1 & trap 'kill $!' TERM; wait $! || wait $!"


rule estimate:
    """Estimate the bill of all language models before anything is sent. Without an output, so that it always runs."""
    input:
        files=estimate_files(WORKFLOW),
    log:
        f"{LOGS}/estimate.log",
    conda:
        "../envs/narrate.yaml"
    resources:
        mem_mb=growing(2500),
        runtime=growing(30),
    params:
        plan=lambda wildcards: json.dumps(estimate_plan(WORKFLOW)),
    message:
        "Estimate what the narrations will cost"
    shell:
        "python -m workflow_scripts.estimate --plan {params.plan:q} 2>&1 | to_log {log:q}"


rule gather_narrations:
    input:
        clips=WORKFLOW.clip_table("{dataset}", "train"),
        shards=gather.rephrased(WORKFLOW.narration_table("{{dataset}}", "{scatteritem}")),
        shared=lambda wildcards: WORKFLOW.shared_shards(wildcards.dataset),
        lists=class_lists,
        cosines=lambda wildcards: WORKFLOW.cosine_tables(wildcards.dataset, looks=False),
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
        runtime=growing(120),  # the filters judge a few thousand sentences a second
    params:
        code=library_code(*FILTER_CODE),
        filters=lambda wildcards: json.dumps(SETTINGS.narrate.filters.recipe()),
        lists=lambda wildcards: inputs.class_list_words(WORKFLOW, wildcards.dataset),
        journal=lambda wildcards: WORKFLOW.narration_journal(wildcards.dataset),
    message:
        "Join rephrased narrations of {wildcards.dataset}"
    shell:
        "python -m workflow_scripts.gather_narrations {input.clips:q} --shards {input.shards:q}"
        " --shared {input.shared:q}"
        " --filters {params.filters:q} --cosines {input.cosines:q} {params.lists}"
        " --journal {params.journal:q} --out {output.table:q} 2>&1 | to_log {log:q}"


if COSINES:

    rule measure_cosines:
        input:
            clips=WORKFLOW.clip_table("{dataset}", "train"),
            chunks=WORKFLOW.chunks("{dataset}"),
            packets=WORKFLOW.packets("{dataset}"),
            texts=lambda wildcards: WORKFLOW.texts_to_filter(wildcards.dataset, wildcards.provider),
            model=lambda wildcards: WORKFLOW.cosine_model(wildcards.provider),
        output:
            WORKFLOW.cosine_table("{dataset}", "{provider}", "{scatteritem}"),
        log:
            f"{LOGS}/measure_cosines/{{dataset}}-{{provider}}-{{scatteritem}}.log",
        benchmark:
            f"{LOGS}/benchmark/measure_cosines-{{dataset}}-{{provider}}-{{scatteritem}}.tsv"
        wildcard_constraints:
            provider=one_of(COSINES),
        priority: 10
        conda:
            lambda wildcards: ("../envs/gpu.yaml" if cosines_of(wildcards).gpus else "../envs/train.yaml")
        threads: lambda wildcards: cosines_of(wildcards).threads
        resources:
            mem_mb=lambda wildcards: cosines_of(wildcards).memory_mb,
            runtime=growing(720),
            gpu=lambda wildcards: cosines_of(wildcards).gpus,
            job_settings=lambda wildcards: json.dumps(cosines_of(wildcards).job_settings()),
        params:
            recipe=lambda wildcards: json.dumps(cosines_of(wildcards).recipe()),
            looks=lambda wildcards: "--looks" if WORKFLOW.looks(wildcards.provider) else "",
        message:
            "Compare clips of {wildcards.dataset} with texts by {wildcards.provider}, shard {wildcards.scatteritem}"
        shell:
            "python -m workflow_scripts.measure_cosines {input.clips:q} --chunks {input.chunks:q}"
            " --texts {input.texts:q} {params.looks} --model {input.model:q}"
            " --recipe {params.recipe:q} --job {resources.job_settings:q}"
            " --shard {wildcards.scatteritem} --out {output:q} 2>&1 | to_log {log:q}"


if SETTINGS.narrator.provider:

    rule narrate_clips:
        input:
            clips=WORKFLOW.clip_table("{dataset}", "train"),
            chunks=WORKFLOW.chunks("{dataset}"),
            packets=WORKFLOW.packets("{dataset}"),
            model=WORKFLOW.narrator_model() or [],
            server=WORKFLOW.local_server(looks=True) or [],
            other_clips=lambda wildcards: other_tables(wildcards)[0],
            other_chunks=lambda wildcards: other_tables(wildcards)[1],
            other_packets=lambda wildcards: other_tables(wildcards)[2],
            held_out=lambda wildcards: WORKFLOW.held_out_tables(wildcards.dataset)
            + other_tables(wildcards)[3],
        output:
            WORKFLOW.narration_table("{dataset}", "{scatteritem}", looks=True),
        log:
            f"{LOGS}/narrate_clips/{{dataset}}-{{scatteritem}}.log",
        benchmark:
            f"{LOGS}/benchmark/narrate_clips-{{dataset}}-{{scatteritem}}.tsv"
        priority: 10
        conda:
            lambda wildcards: (
                "../envs/gpu.yaml"
                if SETTINGS.narrator.own.job_gpus
                else "../envs/train.yaml" if WORKFLOW.narrator_model() else "../envs/narrate.yaml"
            )
        threads: 0 if WORKFLOW.local_server(looks=True) else SETTINGS.narrator.own.job_threads
        resources:
            mem_mb=growing(SETTINGS.narrator.own.job_memory_mb),
            runtime=growing(SETTINGS.narrator.own.job_minutes),
            gpu=SETTINGS.narrator.own.job_gpus,
            narrator_settings=lambda wildcards: json.dumps(SETTINGS.narrator.job_settings()),
        params:
            code=provider_code(SETTINGS.narrator.provider),
            recipe=lambda wildcards: json.dumps(SETTINGS.narrator.recipe()),  # a prompt may have braces
            journal=lambda wildcards: WORKFLOW.narration_journal(wildcards.dataset, looks=True),
        message:
            "Narrate clips of {wildcards.dataset} with {SETTINGS.narrator.provider}, shard {wildcards.scatteritem}"
        shell:
            "python -m workflow_scripts.narrate_clips {input.clips:q} --chunks {input.chunks:q}"
            " --recipe {params.recipe:q} --job {resources.narrator_settings:q} --model {input.model:q}"
            " --other-clips {input.other_clips:q} --other-chunks {input.other_chunks:q} --held-out {input.held_out:q}"
            " --shard {wildcards.scatteritem} --journal {params.journal:q} --server {input.server:q} --out {output:q}"
            " 2>&1 | to_log {log:q}"

    rule gather_narrated_clips:
        input:
            clips=WORKFLOW.clip_table("{dataset}", "train"),
            chunks=WORKFLOW.chunks("{dataset}"),
            packets=WORKFLOW.packets("{dataset}"),
            held_out=lambda wildcards: WORKFLOW.held_out_tables(wildcards.dataset),
            shards=gather.narrated(WORKFLOW.narration_table("{{dataset}}", "{scatteritem}", looks=True)),
            cosines=lambda wildcards: WORKFLOW.cosine_tables(wildcards.dataset, looks=True),
        output:
            **WORKFLOW.narration_files("{dataset}", looks=True),
        log:
            f"{LOGS}/gather_narrated_clips/{{dataset}}.log",
        benchmark:
            f"{LOGS}/benchmark/gather_narrated_clips-{{dataset}}.tsv"
        priority: 10
        conda:
            "../envs/narrate.yaml"
        resources:
            mem_mb=growing(2500),
            runtime=growing(60),
        params:
            code=library_code(*FILTER_CODE),
            recipe=lambda wildcards: json.dumps(SETTINGS.narrator.recipe()),
            filters=lambda wildcards: json.dumps(SETTINGS.narrator.filters.recipe()),
            journal=lambda wildcards: WORKFLOW.narration_journal(wildcards.dataset, looks=True),
        message:
            "Join narrated clips of {wildcards.dataset}"
        shell:
            "python -m workflow_scripts.gather_narrated_clips {input.clips:q} --chunks {input.chunks:q}"
            " --held-out {input.held_out:q}"
            " --recipe {params.recipe:q} --filters {params.filters:q} --shards {input.shards:q}"
            " --cosines {input.cosines:q} --journal {params.journal:q} --out {output.table:q} 2>&1 | to_log {log:q}"
