"""The dataset card: a README.md that tells a stranger what the rows are, how sure they are, and how to make them again.

Its front matter is what the `datasets` library reads, so the folder opens there with its splits.
"""

from pathlib import Path
from typing import Any

import jinja2
import yaml

from ..config.data import DataConfig
from .schema import TENSOR_COLUMNS, dataset_schema

CARD_FILE = "README.md"
_TEMPLATE = Path(__file__).parent / "card.md.j2"
_FLAGS = ("preset", "sensors", "times", "seed", "noise", "dtype")  # options of `generate`; the rest goes by --set


def render_card(manifest: dict[str, Any]) -> str:
    """The card of a dataset, a function of its manifest alone."""
    config = DataConfig.model_validate(manifest["config"])
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    rows = sum(manifest["counts"].values())
    return environment.from_string(_TEMPLATE.read_text()).render(
        front_matter=_front_matter(config),
        manifest=manifest,
        data=config,
        depth=config.ensemble.depth_range,
        rows=rows,
        megabytes=sum(line["bytes"] for line in manifest["files"]) / 1e6,
        histogram=[(bound, count, "█" * round(40 * count / rows)) for bound, count in sorted(manifest["certificates"].items(), key=_bound)],
        command=reproduction_command(config),
    )


def _bound(item: tuple[str, int]) -> float:
    return float(item[0])


def reproduction_command(config: DataConfig) -> str:
    """The command line that makes the same rows: every option that differs from its default."""
    words = ["neural-hamilton generate DEST"]
    words += [f"--{split} {count}" for split, count in config.counts.items() if count]
    defaults = DataConfig().model_dump(mode="json")
    for name, value in config.model_dump(mode="json", exclude=set(config.counts)).items():
        if value != defaults[name]:
            words.append(f"--{name} {value}" if name in _FLAGS else f"--set 'data.{name}={value}'")
    return " ".join(words)


def _front_matter(config: DataConfig) -> str:
    """Splits and column types for the `datasets` library, which does not know Arrow's tensor type."""
    features = []
    for field in dataset_schema(config.sensors, config.times, config.dtype):
        if field.name in TENSOR_COLUMNS:
            features.append({"name": field.name, "list": config.dtype, "length": field.type.shape[0]})
        elif field.name in ("control_q", "control_v"):
            features.append({"name": field.name, "list": "float64"})
        else:
            features.append({"name": field.name, "dtype": str(field.type).replace("double", "float64")})
    splits = [{"split": split, "path": f"{split}/*.parquet"} for split, count in config.counts.items() if count]
    values = {
        "configs": [{"config_name": "default", "data_files": splits}],
        "dataset_info": {"config_name": "default", "features": features},
    }
    return yaml.safe_dump(values, sort_keys=False).rstrip()
