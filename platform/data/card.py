"""The dataset card: a README.md that tells a stranger what the rows are, how sure they are, and how to make them again.

Its front matter is what the `datasets` library reads, so the folder opens there with its splits.
"""

from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pyarrow as pa
import yaml

from ..config.data import DataConfig
from .schema import dataset_schema, is_imported, tensor_columns

CARD_FILE = "README.md"
_TEMPLATE = Path(__file__).parent / "card.md.j2"
_FLAGS = ("sensors", "times", "seed", "noise", "dtype")  # options of `generate`; the rest goes by --set


def render_card(manifest: dict[str, Any]) -> str:
    """The card of a dataset, a function of its manifest alone."""
    config = DataConfig.model_validate(manifest["config"])
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    rows = sum(manifest["counts"].values())
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        front_matter=_front_matter(config),
        manifest=manifest,
        data=config,
        system=config.get_system(),
        ensemble=config.distribution,
        tensors={name: "×".join(map(str, shape)) for name, shape in tensor_columns(config).items()},
        rows=rows,
        megabytes=sum(line["bytes"] for line in manifest["files"]) / 1e6,
        histogram=[(bound, count, "█" * round(40 * count / rows)) for bound, count in sorted(manifest["certificates"].items(), key=_bound)],
        command=reproduction_command(config),
        imported=manifest.get("imported"),
    )


def _bound(item: tuple[str, int]) -> float:
    return float(item[0])


def reproduction_command(config: DataConfig) -> str:
    """The command line that makes the same rows: every option that differs from its default."""
    if is_imported(config):
        return "neural-hamilton import SOURCE DEST"
    words = ["neural-hamilton generate DEST"]
    words += [f"--{split} {count}" for split, count in config.counts.items() if count]
    if config.system != DataConfig.model_fields["system"].default:
        words.append(f"--system {config.system}")
    usual = DataConfig.model_validate({"system": config.system})
    if config.distribution.name != usual.distribution.name:
        words.append(f"--ensemble {config.distribution.name}")
    defaults = usual.model_dump(mode="json")
    for name, value in config.model_dump(mode="json", exclude={*config.counts, "ensemble"}).items():
        if value != defaults[name]:
            plain = name in _FLAGS and not isinstance(value, list)
            words.append(f"--{name} {value}" if plain else f"--set 'data.{name}={value}'")
    own, usual_own = config.distribution.dump(), type(config.distribution)().dump()
    words += [f"--set 'data.ensemble.{key}={_plain(value)}'" for key, value in own.items() if value != usual_own[key]]
    return " ".join(words)


def _plain(value: object) -> object:
    """As YAML reads it."""
    return list(value) if isinstance(value, tuple) else value


def _front_matter(config: DataConfig) -> str:
    """Splits and column types for the `datasets` library, which does not know Arrow's tensor type."""
    features = []
    for field in dataset_schema(config):
        if isinstance(field.type, pa.FixedShapeTensorType):
            features.append({"name": field.name, "list": config.dtype, "length": int(np.prod(field.type.shape))})
        elif pa.types.is_fixed_size_list(field.type):
            features.append({"name": field.name, "list": "float64", "length": field.type.list_size})
        elif pa.types.is_list(field.type):
            features.append({"name": field.name, "list": "float64"})
        else:
            features.append({"name": field.name, "dtype": str(field.type).replace("double", "float64")})
    splits = [{"split": split, "path": f"{split}/*.parquet"} for split, count in config.counts.items() if count]
    values = {
        "configs": [{"config_name": "default", "data_files": splits}],
        "dataset_info": {"config_name": "default", "features": features},
    }
    return yaml.safe_dump(values, sort_keys=False).rstrip()
