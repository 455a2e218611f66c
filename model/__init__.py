"""The recogniser: frozen encoder, trained adapter, frozen LLM, and the prompt around the speech.
Begin with slam_asr.py, which follows the paper; batch.py has the shapes. Imports no other folder of the project."""
