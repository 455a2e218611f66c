"""Speech to text with a trained adapter. Begin with generate.py, the search; dataset.py and files.py feed it, and
segments.py splits long recordings; recogniser.py is what Python and the command line use, outputs.py writes
transcripts; scoring/ counts word errors, report/ shows them, export.py copies an adapter. Imports data_prep and
model."""
