"""Training under Slurm: the text for sbatch, requeueing, and what submit, status, logs and cancel do."""
