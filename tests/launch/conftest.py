import pytest

RECIPE = """
model: {encoder: e, llm: l}
data: {train: shards}
optim: {max_steps: 8, warmup_steps: 3}
"""


@pytest.fixture
def plain(tmp_path):
    """A recipe whose models are never opened."""
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE + f"run: {{dir: {tmp_path}/run}}\n")
    return path
