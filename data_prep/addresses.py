"""Addresses of remote storage (`s3://bucket/key`): recognised, joined, and shown without secrets."""

import os
import posixpath
import re

REMOTE = ("s3", "gs", "http", "https", "memory")  # schemes that are read, through fsspec
USER = re.compile(r"(?<=://)[^/?#\s]*@")


def is_remote(address: str | os.PathLike[str]) -> bool:
    """Whether it is an address (`scheme://...`) rather than a path."""
    return "://" in os.fspath(address)[:32]


def without_secrets(address: str) -> str:
    """The address (or a command that holds one) without user, password and query, for messages and files."""
    return USER.sub("", address).partition("?")[0].partition("#")[0] if "://" in address else address


def resolve_address(address: str, place: str) -> str:
    """`place`, relative to the folder `address`: `../b.wav` at s3://bucket/a is s3://bucket/b.wav."""
    scheme, _, rest = address.partition("://")
    return place if is_remote(place) else f"{scheme}://{posixpath.normpath(f'{rest}/{place}')}"
