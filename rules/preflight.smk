"""Find what would fail before any training starts: `snakemake --cores 2 preflight`.

Without an output, so that it always runs. (Snakemake would also delete the page if something would fail.)
"""


rule preflight:
    input:
        chunks=collect(f"{DATA}/{{dataset}}/chunks.parquet", dataset=USED),
        packets=collect(f"{DATA}/{{dataset}}/packets.npy", dataset=USED),
        dropped=collect(f"{DATA}/{{dataset}}/clips/dropped.json", dataset=USED),
        tables=[path for dataset in USED for path in WORKFLOW.clip_tables(dataset).values()],
    log:
        f"{LOGS}/preflight.log",
    conda:
        "../envs/train.yaml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(120),
    params:
        datasets=json.dumps(
            {
                name: {
                    "chunks": f"{DATA}/{name}/chunks.parquet",
                    "dropped": f"{DATA}/{name}/clips/dropped.json",
                    "tables": WORKFLOW.clip_tables(name),
                    "needed": WORKFLOW.clips_needed(name),
                }
                for name in USED
            }
        ),
        samples=SETTINGS.preflight_clips,
        seed=SETTINGS.seed,
        clip_timeout=WORKFLOW.shortest_clip_timeout(),
        page=f"{RESULTS}/preflight.html",
    message:
        "Check the clips of every data set"
    shell:
        "python -m workflow_scripts.preflight --datasets {params.datasets:q} --samples {params.samples}"
        " --seed {params.seed} --clip-timeout {params.clip_timeout} --out {params.page:q} 2>&1 | to_log {log:q}"
