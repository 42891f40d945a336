"""`sweep.html`: what a study has found, as one page that needs no network. Its figures are Optuna's own, drawn by plotly."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from ...platform import evaluation
from ...platform.config import Config
from .search_spaces import at_edges
from .study import Study

_TEMPLATES = (Path(__file__).parent, Path(evaluation.__file__).parent)
_SHOWN_ROWS = 20
_MOST_AXES = 3  # of a Pareto front that can be drawn


def render_page(study: Study, config: Config, rows: list[dict[str, Any]]) -> str:
    """The page of a study with this leaderboard."""
    objectives = config.sweep.objectives
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    figures = _draw(study, objectives)
    return environment.get_template("sweep.html.j2").render(
        architecture=config.architecture.name,
        objectives=objectives,
        sampler=config.sweep.sampler,
        stopper=config.sweep.stopper,
        states={state: sum(row["state"] == state for row in rows) for state in ("finished", "stopped early", "failed")},
        keys=list(study.space),
        rows=rows[:_SHOWN_ROWS],
        num_rows=len(rows),
        warnings=at_edges(study.space, rows[0]["parameters"]) if rows and rows[0]["reason"] is None else [],
        rungs=judged_rungs(study),
        figures=figures,
        script=_plotly_script() if figures else "",
    )


def judged_rungs(study: Study) -> list[dict[str, Any]]:
    """Of each rung: its epoch, the trials that were judged there, and those of them that were stopped."""
    judged: dict[int, list[bool]] = {}
    for trial in study.trials():
        rungs, kept = study.stopper.rungs(trial.number), trial.user_attrs.get("kept", 0)
        for rung in rungs:
            if rung <= kept:
                judged.setdefault(rung, []).append(False)
        if trial.state.name == "PRUNED":
            judged.setdefault(trial.user_attrs["epochs"], []).append(True)
    return [{"epoch": epoch, "judged": len(stopped), "stopped": sum(stopped)} for epoch, stopped in sorted(judged.items())]


def _draw(study: Study, objectives: Sequence[str]) -> list[dict[str, str]]:
    """Title and HTML of each figure that there are trials enough for."""
    from optuna import visualization
    from optuna.importance import PedAnovaImportanceEvaluator

    finished = [trial for trial in study.ended() if trial.state.name == "COMPLETE"]
    if len(finished) < 2:
        return []
    figures: list[tuple[str, Any]] = []
    several = len(objectives) > 1
    if several and len(objectives) <= _MOST_AXES:
        figures.append(("Pareto front", visualization.plot_pareto_front(study.optuna, target_names=list(objectives))))
    for index, name in enumerate(objectives):
        target = _objective(index) if several else None
        common: dict[str, Any] = {"target": target, "target_name": name}
        log = all(trial.values[index] > 0 for trial in finished)
        figures.append((f"History of {name}", _log(visualization.plot_optimization_history(study.optuna, **common), log)))
        if _varies(finished):
            with warnings.catch_warnings():  # that low values count as good, which they are here
                warnings.simplefilter("ignore", UserWarning)
                importances = visualization.plot_param_importances(study.optuna, evaluator=PedAnovaImportanceEvaluator(), **common)
            figures.append((f"Importance of the parameters for {name}", importances))
        figures.append((f"Parallel coordinates, {name}", visualization.plot_parallel_coordinate(study.optuna, **common)))
        figures.append((f"Slices, {name}", _log(visualization.plot_slice(study.optuna, **common), log)))
    if not several:
        curves = visualization.plot_intermediate_values(study.optuna)
        figures.append((f"{objectives[0]} so far, by epoch; the rungs are those of the table", _log(curves, True)))
    return [{"title": title, "html": figure.to_html(full_html=False, include_plotlyjs=False)} for title, figure in figures]


def _objective(index: int) -> Any:
    return lambda trial: trial.values[index]


def _varies(finished: list[Any]) -> bool:
    """Whether any parameter that all finished trials have took two values."""
    common = set.intersection(*(set(trial.params) for trial in finished))
    return any(len({str(trial.params[key]) for trial in finished}) > 1 for key in common)


def _log(figure: Any, positive: bool) -> Any:
    return figure.update_yaxes(type="log") if positive else figure


def _plotly_script() -> str:
    from plotly.offline import get_plotlyjs

    return get_plotlyjs()
