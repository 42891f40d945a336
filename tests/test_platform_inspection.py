"""What inspection computes again of a stored row: its motion, energy, sensors and exponent."""

import numpy as np
import pyarrow as pa
import pytest

from neural_hamilton.platform.config.load import load_data_config
from neural_hamilton.platform.data.inspection import check_row
from neural_hamilton.platform.data.schema import tensor_column
from neural_hamilton.platform.data.shards import make_rows


@pytest.fixture(scope="module", params=["well", "surface"])
def config_and_row(request):
    config = load_data_config(None, {"data.system": request.param, "data.train": 1})
    return config, make_rows(config, "train", np.arange(1))[0]


def test_a_row_as_it_was_made_follows_from_its_hamiltonian(config_and_row):
    assert check_row(*config_and_row)[1] == []


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("energy", lambda x: x + 1e-6, "its energy is"),
        ("integration_error", lambda x: x + 1.0, "its certified bound is 1.00e+00, more than the dataset's tolerance"),
        ("lyapunov", lambda x: 1.1 * x, "lyapunov is"),
        ("potential", lambda x: 1.001 * x, "potential differs by"),
        ("q", lambda x: x + 1e-5, "re-integration differs by"),
        ("p", lambda x: -x, "re-integration differs by"),
    ],
)
def test_a_changed_number_is_found(config_and_row, name, change, words):
    config, row = config_and_row
    if name not in row.column_names:
        pytest.skip(f"{config.system} has no {name}")
    column = row.column(name).combine_chunks()
    if isinstance(column.type, pa.FixedShapeTensorType):
        values = change(tensor_column(row, name))
        changed = pa.ExtensionArray.from_storage(
            column.type, pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), column.type.storage_type.list_size)
        )
    else:
        changed = pa.array(change(np.asarray(column)))
    _, complaints = check_row(config, row.set_column(row.column_names.index(name), row.schema.field(name), changed))
    assert len(complaints) == 1 and words in complaints[0]
