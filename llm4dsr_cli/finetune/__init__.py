"""Fine-tuning by self-supervision; needs the extra ``finetune``."""
