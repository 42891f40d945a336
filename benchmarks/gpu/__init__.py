"""Everything to measure on a GPU, as one command for a machine that is lent for minutes: `python -m benchmarks.gpu --out DIR`.

| file | what it holds |
|---|---|
| `__main__.py` | the command: a process for each part, with a deadline, so that no part can take another down |
| `part.py` | that process: measures a part cell by cell and records each cell at once |
| `bench.py` | what a part is made of |
| `record.py` | DIR/gpu.json, whole at any moment |
| `card.py`, `parity.py`, `scan.py`, `train.py`, `infer.py`, `learn.py` | the parts, in the order in which they run |
| `networks.py`, `work.py`, `clock.py` | what is measured, the operations and bytes it must cost, and how it is timed |
| `tables.py` | the tables of docs/gpu.md, from benchmarks/results/gpu/gpu.json |

docs/gpu.md says what to expect. Nothing here imports Ray.
"""

from pathlib import Path

# A part's fraction of the minutes. What one leaves unused, the next ones may use; `learn` takes all that is left.
PARTS = {"card": 0.04, "parity": 0.22, "scan": 0.12, "train": 0.23, "infer": 0.09, "learn": 0.3}
RESULTS = Path(__file__).parent.parent / "results" / "gpu"
RECORD_FILE, LEARN_FOLDER = "gpu.json", "learn"
