"""What would fail, found before any training begins: `snakemake --cores 2 preflight`."""


rule check_clips:
    input:
        chunks=collect(f"{DATA}/{{dataset}}/chunks.parquet", dataset=used_datasets()),
        packets=collect(f"{DATA}/{{dataset}}/packets.npy", dataset=used_datasets()),
        tables=[path for dataset in used_datasets() for path in clip_tables(dataset).values()],
    output:
        page=f"{RESULTS}/preflight.html",
    log:
        f"{LOGS}/preflight.log",
    benchmark:
        f"{LOGS}/benchmark/preflight.tsv"
    conda:
        "../envs/train.yaml"
    resources:
        mem_mb=4000,
        runtime=120,
    params:
        code=library("data/preflight.py", "report/preflight*"),
        datasets=json.dumps(
            {
                name: {"chunks": f"{DATA}/{name}/chunks.parquet", "tables": clip_tables(name)}
                for name in used_datasets()
            }
        ),
        samples=SETTINGS.preflight_clips,
        seed=SETTINGS.seed,
        clip_timeout=shortest_clip_timeout(),
    message:
        "Check the clips of every data set"
    shell:
        "python -m workflow_scripts.preflight --datasets {params.datasets:q} --samples {params.samples}"
        " --seed {params.seed} --clip-timeout {params.clip_timeout} --out {output.page} 2>&1 | tee {log}"
