"""Speech to text with a trained adapter. Start with generate.py, the search; dataset.py decodes shards with it,
recordings/ recordings of any length; recogniser.py is the interface for Python and the command line. scoring/ counts
word errors, report/ shows them, export/ writes adapters, merged LLMs and model cards to share. Imports data_prep and
model."""
