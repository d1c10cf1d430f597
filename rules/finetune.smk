"""Fine-tune: train from an earlier stage's weights, with the same rule for other stages."""


use rule pretrain_stage as finetune_stage with:
    wildcard_constraints:
        stage=one_of(FINETUNE_STAGES),
    priority: 5
    message:
        "Fine-tune {wildcards.stage} of the run {wildcards.run}"
