"""Keys of recipes of earlier versions: null is ignored, as an old config.yaml has it; a value is refused."""

from model.errors import UserError
from train.recipe.yaml import Mapping, Scalar, Tree

REMOVED_FROM_LOG = {"pushgateway", "prometheus_textfiles"}


def without_removed_keys(recipe: Tree) -> Tree:
    """The recipe without keys of earlier versions that are null there; UserError, with what replaces it, for others."""
    log = recipe.entries.get("log") if isinstance(recipe, Mapping) else None
    if not isinstance(recipe, Mapping) or not isinstance(log, Mapping):
        return recipe
    for name in sorted(REMOVED_FROM_LOG & log.entries.keys()):
        value = log.entries[name]
        if not (isinstance(value, Scalar) and value.is_null):
            raise UserError(
                f"{value.where}: log.{name} is gone; give log.prometheus (such as 0.0.0.0:9400), which every rank "
                "serves, and log.prometheus_targets, the folder where Prometheus finds the ranks"
            )
    kept = {name: value for name, value in log.entries.items() if name not in REMOVED_FROM_LOG}
    return Mapping({**recipe.entries, "log": Mapping(kept, log.where)}, recipe.where)
