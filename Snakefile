"""From raw first-person video to trained and evaluated video-language models.

snakemake --cores 2                       all selected runs, and the report
snakemake --cores 2 pretrain              one stage and its prerequisites
snakemake --cores 2 --configfile configs/folder.yaml
"""

from snakemake.utils import min_version

min_version("9.27")


include: "rules/common.smk"
include: "rules/download.smk"
include: "rules/transcode.smk"
include: "rules/annotate.smk"
include: "rules/narrate.smk"
include: "rules/plan.smk"
include: "rules/preflight.smk"
include: "rules/pretrain.smk"
include: "rules/finetune.smk"
include: "rules/evaluate.smk"
include: "rules/report.smk"


onstart:
    before_the_first_job(workflow.dag, executor=workflow.executor_plugin.name)
    SCREEN.watch()
    stop_gently(SCREEN, jobs_here=workflow.local_exec)


onsuccess:
    release_folder()
    SCREEN.succeed()


onerror:
    release_folder()


localrules:
    all,
    download,
    weights,
    fetch_weights,
    transcode,
    annotate,
    narrate,
    plan,
    pretrain,
    finetune,
    evaluate,
    report,


rule all:
    default_target: True
    input:
        f"{RESULTS}/report/index.html",


rule download:
    input:
        collect(f"{DATA}/{{dataset}}/videos.parquet", dataset=USED),


rule weights:
    input:
        [
            file.path
            for stage in WORKFLOW.trained_stages()
            for file in WORKFLOW.weight_files(stage.recipe)
            if file.fetched
        ],


rule transcode:
    input:
        collect(f"{DATA}/{{dataset}}/chunks.parquet", dataset=USED),


rule annotate:
    input:
        [WORKFLOW.clip_table(dataset, "train") for dataset in USED],


rule narrate:
    input:
        [WORKFLOW.narration_table(dataset) for dataset in REPHRASED],
        [WORKFLOW.narration_table(dataset, looks=True) for dataset in NARRATED],


rule pretrain:
    input:
        WORKFLOW.models(PRETRAIN_STAGES),


rule finetune:
    input:
        WORKFLOW.models(FINETUNE_STAGES),


rule evaluate:
    input:
        WORKFLOW.results(["metrics.json"]),


rule report:
    input:
        f"{RESULTS}/report/index.html",
