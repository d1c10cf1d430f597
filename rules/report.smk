"""One page and one table of figures over the selected runs."""


rule build_report:
    input:
        metrics=all_metrics(),
        outputs=[path.replace("metrics.json", "outputs.safetensors") for path in all_metrics()],
        measured=[path.replace("metrics.json", "manifest.json") for path in all_metrics()],
        trained=[
            f"{stage_folder(run, stage)}/{name}"
            for run, stage, _ in selected_stages()
            for name in ("train.jsonl", "model.json", "manifest.json")
        ],
        narrations=[path for dataset in rephrased_datasets() for path in narration_files(dataset).values()],
        chunks=collect(f"{DATA}/{{dataset}}/chunks.parquet", dataset=used_datasets()),
        packets=collect(f"{DATA}/{{dataset}}/packets.npy", dataset=used_datasets()),
        dropped=collect(f"{DATA}/{{dataset}}/clips/dropped.json", dataset=used_datasets()),
        dropped_clips=collect(f"{DATA}/{{dataset}}/clips/dropped.csv", dataset=used_datasets()),
        quarantines=collect(f"{DATA}/{{dataset}}/quarantine.json", dataset=used_datasets()),
        anew=outdated_report,
    output:
        page=f"{RESULTS}/report/index.html",
        metrics=f"{RESULTS}/report/metrics.json",
    log:
        f"{LOGS}/report/report.log",
    benchmark:
        f"{LOGS}/benchmark/report.tsv"
    conda:
        "../envs/narrate.yaml"
    resources:
        mem_mb=growing(1500),
        runtime=growing(30),
    params:
        code=library("report/*"),
        plan=report_plan,
        folder=lambda wildcards, output: os.path.dirname(output.page),
    message:
        "Write the report"
    shell:
        "python -m workflow_scripts.report --plan {params.plan:q}"
        " --out {params.folder:q} 2>&1 | to_log {log:q}"
