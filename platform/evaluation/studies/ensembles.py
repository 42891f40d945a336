"""Out of distribution: variants of the training ensemble that differ from it in one respect each."""

from typing import Any

from ....physics import InputError
from ..problems import draw_problems
from ..study import Study, Subject, has_variants


def measure(subject: Subject) -> dict[str, dict[str, Any]]:
    """Summaries of the total loss on `study_rows` problems of each variant, and of the training ensemble itself.

    Baselines that fit an ensemble keep assuming the training ensemble. A variant that cannot be drawn says why.
    """
    settings, trained = subject.settings, subject.ensemble
    results: dict[str, dict[str, Any]] = {}
    for name, ensemble in ({"as trained": trained} | trained.variants()).items():
        try:
            problems = draw_problems(subject.system, ensemble, trained, settings.seed, settings.study_rows, subject.trained_for.sensors)
        except InputError as error:
            results[name] = {"not_measured": str(error)}
            continue
        summaries = subject.summarise_losses(problems, subject.with_role("studies", problems))
        results[name] = {"truth_floor": problems.floor, "rows": len(problems)} | summaries
    return results


STUDY = Study("ensembles", measure, "ensembles.html.j2", (has_variants,))
