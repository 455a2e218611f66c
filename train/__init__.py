"""Training. Begin with loop.py: it is all of it on one screen; open_run.py builds what it touches.

Imports decode, data_prep and model. Sub-packages may import those below them: report, engine, data, liveness, recipe,
dist; the modules of this folder stand above them all."""
