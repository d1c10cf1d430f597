"""One page and one table of figures over the selected runs."""


def report_plan(wildcards):
    """What the report shows and where each piece lies, as JSON."""
    return json.dumps(
        {
            "config": SETTINGS.model_dump(mode="json"),
            "runs": {run: run_plan(run) for run in SETTINGS.selected_runs},
            "datasets": {name: dataset_plan(name) for name in used_datasets()},
            "narrations": {
                name: {"provider": PROVIDER, "table": narration_table(name)} for name in rephrased_datasets()
            },
        }
    )


def run_plan(run):
    entry = SETTINGS.runs[run]
    return {
        "title": entry.title,
        "stages": {stage: stage_folder(run, stage) for stage in entry.stages},
        "evaluations": {name: evaluation_plan(run, name) for name in entry.evaluations},
    }


def evaluation_plan(run, name):
    entry = SETTINGS.evaluations[name]
    sentences = SETTINGS.datasets[entry.dataset].layout == "ek100" and entry.kind == "retrieval"
    return {
        "folder": f"{RESULTS}/{run}/{name}",
        "kind": entry.kind,
        "dataset": entry.dataset,
        "stage": entry.stage,
        "clips": evaluation_table(entry.dataset),
        "sentences": clip_table(entry.dataset, "sentences_test") if sentences else None,
        "chunks": f"{DATA}/{entry.dataset}/chunks.parquet",
    }


def dataset_plan(name):
    dataset = SETTINGS.datasets[name]
    return {
        "layout": dataset.layout,
        "source": dataset.source,
        "chunks": f"{DATA}/{name}/chunks.parquet",
        "quarantine": f"{DATA}/{name}/quarantine.json",
        "dropped": f"{DATA}/{name}/clips/dropped.json",
        "clips": {table: clip_table(name, table) for table in TABLES[dataset.layout]},
    }


rule build_report:
    input:
        metrics=all_metrics(),
        outputs=[path.replace("metrics.json", "outputs.safetensors") for path in all_metrics()],
        curves=[f"{stage_folder(run, stage)}/train.jsonl" for run, stage, _ in selected_stages()],
        narrations=[narration_table(dataset) for dataset in rephrased_datasets()],
        dropped=collect(f"{DATA}/{{dataset}}/clips/dropped.json", dataset=used_datasets()),
        quarantines=collect(f"{DATA}/{{dataset}}/quarantine.json", dataset=used_datasets()),
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
        mem_mb=1500,
        runtime=30,
    params:
        code=library("report/*"),
        plan=report_plan,
        folder=f"{RESULTS}/report",
    message:
        "Write the report"
    shell:
        "python {SCRIPTS}/report.py --plan {params.plan:q} --snakefile {workflow.main_snakefile}"
        " --out {params.folder} 2>&1 | tee {log}"
