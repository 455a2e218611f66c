"""Addresses of remote storage (`s3://bucket/key`): how they are told from paths, joined, and shown."""

import os
import posixpath
import re

REMOTE = ("s3", "gs", "http", "https", "memory")  # schemes that are read, through fsspec
USER = re.compile(r"(?<=://)[^/?#\s]*@")


def is_remote(address: str | os.PathLike[str]) -> bool:
    """Whether it is an address (`scheme://...`) rather than a path."""
    return "://" in os.fspath(address)[:32]


def without_secrets(address: str) -> str:
    """The address, or a command with one in it, without user, password and query, which may hold secrets: what is
    printed and written. A path stays as it is."""
    if "://" not in address:
        return address
    return USER.sub("", address).partition("?")[0].partition("#")[0]


def resolve_address(address: str, place: str) -> str:
    """What `place` means to a document in the folder `address`: `../b.wav` at s3://bucket/a is s3://bucket/b.wav."""
    scheme, _, rest = address.partition("://")
    return place if is_remote(place) else f"{scheme}://{posixpath.normpath(f'{rest}/{place}')}"
