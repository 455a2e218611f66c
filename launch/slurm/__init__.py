"""Training under Slurm: scripts for sbatch that requeue and resume, and the verbs submit, status and cancel.
submit.py calls sbatch (client.py) with the scripts that scripts.py writes. The job's script asks lives.py before each
start whether to go on, and after it what to do next. A run keeps in RUN/slurm/:

recipe.yaml, deepspeed.json   what is trained, as submitted: later edits of the recipe change nothing
train.sbatch, shards.sbatch   the scripts that sbatch got
jobs.json                     the jobs: {"train": "1234"}; of a pipeline each stage
train-1234.out                the job's output, of all its starts
lives.jsonl                   each start of the job, and the step it resumed from
refusal, CANCEL, GAVE_UP      why it is not started again

Begin with submit.py. May import launch.recipe, launch.stages, train, data_prep and model."""
