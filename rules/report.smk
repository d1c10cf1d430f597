"""Report on the selected runs: one page and one table of figures."""


rule build_report:
    input:
        measured=WORKFLOW.results(["metrics.json", "outputs.safetensors", "manifest.json"]),
        trained=[
            WORKFLOW.result(stage.run, stage.name, file)
            for stage in WORKFLOW.stages()
            for file in ("train.jsonl", "model.json", "manifest.json")
        ],
        narrations=[path for dataset in REPHRASED for path in WORKFLOW.narration_files(dataset).values()],
        narrated=[
            path for dataset in NARRATED for path in WORKFLOW.narration_files(dataset, looks=True).values()
        ],
        chunks=collect(f"{DATA}/{{dataset}}/chunks.parquet", dataset=USED),
        packets=collect(f"{DATA}/{{dataset}}/packets.npy", dataset=USED),
        dropped=collect(f"{DATA}/{{dataset}}/clips/dropped.json", dataset=USED),
        dropped_clips=collect(f"{DATA}/{{dataset}}/clips/dropped.csv", dataset=USED),
        quarantines=collect(f"{DATA}/{{dataset}}/quarantine.json", dataset=USED),
        anew=lambda wildcards: REMAKES.report(),
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
        code=library_code("report/*"),
        plan=lambda wildcards: report_plan(WORKFLOW).model_dump_json(),
        folder=lambda wildcards, output: os.path.dirname(output.page),
    message:
        "Write the report"
    shell:
        "python -m workflow_scripts.report --plan {params.plan:q}"
        " --out {params.folder:q} 2>&1 | to_log {log:q}"
