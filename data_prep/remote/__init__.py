"""Objects at addresses (s3://, gs://, https://), read and written through fsspec, with retries. Begin with objects.py.
May import audio and the modules of data_prep itself."""
