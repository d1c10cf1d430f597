"""Rephrased narrations: each distinct text once, in shards, then aligned with the clips."""


def class_lists(wildcards):
    """Where the lexicon reads verb and noun classes: a data set's annotate must have run."""
    lists = SETTINGS.narrate.lexicon.class_lists
    return f"{DATA}/{lists}/videos.parquet" if PROVIDER == "lexicon" and lists else []


def class_list_options(wildcards):
    raw = f"{DATA}/{SETTINGS.narrate.lexicon.class_lists}/raw"
    names = [f"{raw}/EPIC_100_{kind}_classes.csv" for kind in ("verb", "noun")]
    return f"--class-lists {' '.join(names)}" if class_lists(wildcards) else ""


def lexicon_code():
    """The lexicon is cheap and reruns when its code changes; a model's answers are paid for and kept."""
    names = ("lexicon.py", "grammar.py", "class_lists.py", "synonyms.yaml")
    return library(*(f"narrate/{name}" for name in names)) if PROVIDER == "lexicon" else ""


rule rephrase_narrations:
    input:
        clips=f"{DATA}/{{dataset}}/clips/train.parquet",
        lists=class_lists,
    output:
        f"{DATA}/{{dataset}}/narrations/{PROVIDER}/{{scatteritem}}.parquet",
    log:
        f"{LOGS}/rephrase_narrations/{{dataset}}-{{scatteritem}}.log",
    benchmark:
        f"{LOGS}/benchmark/rephrase_narrations-{{dataset}}-{{scatteritem}}.tsv"
    conda:
        "../envs/narrate.yaml"
    resources:
        mem_mb=1500,
        runtime=720,
        machine=json.dumps(SETTINGS.narrate.machine()),
    params:
        code=lexicon_code(),
        recipe=json.dumps(SETTINGS.narrate.recipe()),
        lists=class_list_options,
        journal=f"{DATA}/{{dataset}}/narrations/{PROVIDER}/journal",
    message:
        "Rephrase narrations of {wildcards.dataset} with {PROVIDER}, shard {wildcards.scatteritem}"
    shell:
        "python {SCRIPTS}/narrate.py {input.clips} --recipe {params.recipe:q} --machine {resources.machine:q}"
        " --shard {wildcards.scatteritem} {params.lists} --journal {params.journal} --out {output}"
        " 2>&1 | tee {log}"


rule gather_narrations:
    input:
        clips=f"{DATA}/{{dataset}}/clips/train.parquet",
        shards=gather.shards(f"{DATA}/{{{{dataset}}}}/narrations/{PROVIDER}/{{scatteritem}}.parquet"),
    output:
        f"{DATA}/{{dataset}}/narrations/{PROVIDER}/train.parquet",
    log:
        f"{LOGS}/gather_narrations/{{dataset}}.log",
    benchmark:
        f"{LOGS}/benchmark/gather_narrations-{{dataset}}.tsv"
    conda:
        "../envs/narrate.yaml"
    resources:
        mem_mb=1500,
        runtime=30,
    message:
        "Join rephrased narrations of {wildcards.dataset}"
    shell:
        "python {SCRIPTS}/gather_narrations.py {input.clips} --shards {input.shards} --out {output}"
        " 2>&1 | tee {log}"
