"""Fine-tuning is training that starts from an earlier stage: the same rule, other stages."""


use rule pretrain_stage as finetune_stage with:
    wildcard_constraints:
        stage=one_of(FINETUNE_STAGES),
    priority: 5
    message:
        "Fine-tune {wildcards.stage} of the run {wildcards.run}"
