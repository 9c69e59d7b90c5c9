"""`thriftune finetune`: supervised fine-tuning on the answers of a study."""
