"""Whether webdataset itself reads our shards: the samples that `webdataset.WebDataset` yields, against the index."""

import gc
import tarfile
import warnings
from pathlib import Path

from data_prep.figures import counted
from data_prep.shards.index import ShardIndex


def count_samples(tar: Path, index: ShardIndex) -> list[str]:
    """One line if webdataset yields other samples of the tar than `index`, which is of this shard alone, lists.

    A sample must have its utterance's key and just two members, KEY.json and KEY.flac (or another medium). They stay
    bytes: nothing is decoded, and nothing unpickled.
    """
    import webdataset
    from webdataset.compat import WebDataset

    webdataset.utils.enforce_security = True  # no pipes, no pickles  # pyright: ignore[reportAttributeAccessIssue]
    what, number, unlike, failure = f"{index.shards[0].label}: webdataset yields", 0, "", ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # webdataset leaves its files to the garbage collector
        dataset = WebDataset([str(tar)], shardshuffle=False, nodesplitter=None, workersplitter=None, empty_check=False)
        try:
            for number, sample in enumerate(dataset, 1):
                key, members = sample["__key__"], sorted(name for name in sample if not name.startswith("__"))
                wanted = index.key[number - 1] if number <= len(index) else None
                if not unlike and (key != wanted or len(members) != 2 or "json" not in members):
                    unlike = f", number {number:,} of them is {key} of {' and '.join(members)}"
        except (ValueError, OSError, tarfile.TarError) as error:
            failure = f", then fails: {' '.join(str(error).split())[:200]}"
        if failure:
            del dataset
            gc.collect()  # of the file, which the error's traceback holds
    if failure or unlike or number != len(index):
        return [f"{what} {counted(number, 'sample')}{unlike}{failure}; the index lists {len(index):,}"]
    return []
