"""What a step trains on: the corpus measured in LLM tokens, the plan of an epoch, the loader that reads ahead,
augmentation of batches. Begin with plan.py, then loader.py. May import liveness, recipe and dist."""
