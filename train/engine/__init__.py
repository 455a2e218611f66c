"""The update: DeepSpeed behind engine.py, the learning rate, loss scaling, and checkpoints.
The only place that imports deepspeed. Begin with engine.py. May import data, liveness, recipe and dist."""
