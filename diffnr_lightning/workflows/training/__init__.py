"""What all trainings share: Lightning's Trainer, the prior that they start from, their run and model card."""
