"""The two phases of a job: fit, and predict what is held out; each measured, each in a process of its own."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

from medseg.comparison.jobs import Job, JobFolder
from medseg.comparison.journal import finished_cases, note_case
from medseg.comparison.measuring import Meter
from medseg.data import Dataset, load_dataset
from medseg.files import read_json, write_json
from medseg.fitting import FitOptions, fit
from medseg.runs import RunFolder, load_any_recipe
from medseg.segmenters import load_segmenter, predict_jobs
from medseg.training import Budget

__all__ = ["fit_job", "predict_job"]


def fit_job(job: Job, folder: JobFolder) -> None:
    """Fit the method, going on where an earlier try stopped; write ``fit.json``."""
    dataset = _dataset_of(job)
    recipe = load_any_recipe(job.recipe)
    given = (job.max_steps, job.max_minutes, job.max_cpu_minutes)
    options = FitOptions(
        budget=Budget(*given) if given != (None, None, None) else None,
        seed=job.seed,
        device=job.device,
        resume=True,
        jobs=job.processes,
    )
    fold = RunFolder(Path(job.run)).fold(job.fold)
    begun_before = fold.path.exists()
    with Meter() as meter:
        run = fit(dataset, recipe, job.run, folds=[job.fold], options=options)
    cost = meter.cost()
    minutes = read_json(fold.finished_mark).get("minutes")
    if begun_before and minutes is not None:  # which sums up the parts of a training that was interrupted
        cost = replace(cost, seconds=max(cost.seconds, 60.0 * minutes))
    write_json({**asdict(cost), "resumed": begun_before, **_model_facts(run, job.fold)}, folder.fit)


def predict_job(job: Job, folder: JobFolder) -> None:
    """Predict the held-out cases, but those that an earlier try has done; write ``predict.json``."""
    cases = {case.id: case for case in _dataset_of(job).cases}
    done = finished_cases(folder)
    with Meter() as loading:
        segmenter = load_segmenter(job.run, job.device, job.fold, jobs=job.processes)
    with Meter() as meter:
        for name in job.held_out:
            if name in done:
                continue
            # A case as it is for a stranger: without its label.
            case = replace(cases[name], label=None, instances=None)
            (outcome,) = predict_jobs([(segmenter, case)], folder.predictions)
            note_case({"case": name, **outcome.as_dict(), "output": _name_of(outcome.output)}, folder)
    write_json({**asdict(meter.cost()), "load_seconds": loading.cost().seconds}, folder.predict)


def _name_of(output: Path | None) -> str | None:
    return None if output is None else output.name


def _dataset_of(job: Job) -> Dataset:
    """The cases of the job alone, with its split."""
    dataset = load_dataset(job.data)
    wanted = set(job.split.case_ids)
    cases = tuple(case for case in dataset.cases if case.id in wanted)
    return replace(dataset, cases=cases, test_cases=(), declared_split=job.split, declared_count=None)


def _model_facts(run: RunFolder, index: int) -> dict[str, int | None]:
    fold = run.fold(index)
    if run.is_method:
        size = sum(path.stat().st_size for path in fold.model.rglob("*") if path.is_file())
        return {"parameters": None, "model_bytes": size}
    import torch

    from medseg.networks import build_network

    plan = run.plan()
    with torch.device("meta"):
        network = build_network(plan.network.name, **plan.network.options)
    count = sum(parameter.numel() for parameter in network.parameters())
    return {"parameters": count, "model_bytes": fold.weights().stat().st_size}
