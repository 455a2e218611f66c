"""Objects at addresses (s3://, gs://, https://), read and written through fsspec, with retries."""
