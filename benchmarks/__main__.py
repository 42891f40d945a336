"""`python -m benchmarks [NAME ...]`: run the benchmarks, print them, write benchmarks/results/NAME.json."""

import sys

from . import (
    architectures,
    attention,
    generation,
    integrators,
    optimizers,
    posterior,
    scan,
    serving,
    surfaces,
    training,
    trajectories,
    trust,
)
from .timing import describe_machine, format_comparisons, write_result

BENCHMARKS = {
    "generation": generation.measure,
    "trajectories": trajectories.measure,
    "integrators": integrators.measure,
    "surfaces": surfaces.measure,
    "scan": scan.measure,
    "attention": attention.measure,
    "architectures": architectures.measure,
    "optimizers": optimizers.measure,
    "training": training.measure,
    "serving": serving.measure,
}
ON_DEMAND = {  # run when they are named
    "training-long": training.measure_long,
    "posterior": posterior.measure,
    "trust": trust.measure,
    "serving-client": serving.measure_client,
}


def main(names: list[str]) -> int:
    choices = BENCHMARKS | ON_DEMAND
    unknown = [name for name in names if name not in choices]
    if unknown:
        print(f"error: benchmark is {unknown[0]!r}; choose from {', '.join(choices)}", file=sys.stderr)
        return 2
    for name in names or BENCHMARKS:
        result = choices[name]()
        path = write_result(name, result | {"machine": describe_machine()})
        print(f"{name}: {result['what']}\n{format_comparisons(result['comparisons'])}\n{path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
