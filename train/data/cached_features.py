"""Whether cached features are those of the recipe's encoder, and if not, in what they differ."""

from typing import Any

from data_prep.shards.index import ShardIndex
from model.errors import UserError


def require_features(index: ShardIndex, encoder: dict[str, Any], dtype: str) -> None:
    """UserError unless cached features came from this very encoder: weights, preprocessing, layer.

    `encoder` is its fingerprint. The precision must be the same too, if the recipe asks for one: `dtype` is not "auto".
    """
    differing = {
        name: (index.fingerprint.get(name), value)
        for name, value in encoder.items()
        if index.fingerprint.get(name) != value and (name != "dtype" or dtype != "auto")
    }
    for name, (made, own) in differing.items():
        if name not in ("layer", "dtype"):
            raise UserError(
                f"the cached features in {index.root} are of another encoder: their {name} is {made}, that of this "
                f"recipe's encoder is {own}; run `slam-asr prep features` again, or correct model.encoder"
            )
    if "layer" in differing:
        made, own = differing["layer"]
        raise UserError(
            f"the cached features in {index.root} are of layer {made} of this encoder, the recipe reads layer {own}; "
            f"set model.encoder_layer: {made}, or run `slam-asr prep features` again with --layer {own}"
        )
    if "dtype" in differing:
        made, own = differing["dtype"]
        raise UserError(
            f"the cached features in {index.root} were computed in {made}, the recipe asks for {own}; set model.dtype: "
            f"{made} (auto takes them as they are), or run `slam-asr prep features` again with --dtype {own}"
        )
