"""Makes the pictures of a report, each with a description and the numbers drawn in it."""

import csv
import dataclasses
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sbs_jax.reporting import confidence, costs, figures, rows
from sbs_jax.reporting.answers import Answers
from sbs_jax.reporting.figures import Curves, Picture
from sbs_jax.reporting.rows import Row, row_name
from sbs_jax.reporting.statistics import Summary
from sbs_jax.reporting.study_files import StudyTexts
from sbs_jax.runs.reader import Run


@dataclasses.dataclass(frozen=True)
class Figure:
    """A picture, what it shows in words, and the numbers drawn in it.

    Attributes:
        data: for the JSON file.
        points: the same as rows of a CSV file, with equal keys.
    """

    name: str
    picture: Picture
    caption: str
    data: Any
    points: Sequence[dict[str, Any]]

    def csv(self) -> str:
        """The points as CSV with a header."""
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(self.points[0]) if self.points else [])
        writer.writeheader()
        writer.writerows(self.points)
        return text.getvalue()


def of_study(
    summary: Summary,
    runs: dict[Row, Run],
    texts: StudyTexts,
    index: int,
    shown: Mapping[Row, Answers],
) -> list[Figure]:
    """The figures of one study, `index` among those of a page; none without matplotlib."""
    if not figures.available():
        return []
    suffix = f"-{index + 1}" if index else ""
    along = "Large marks: means over seeds with their 95% intervals"
    drawn = [
        Figure(
            f"accuracy{suffix}",
            figures.accuracy(summary, texts.title, texts.baseline),
            f"Test accuracy against the number of labels. {along}; small dots: the seeds. "
            "The teacher's line has a separate 95% interval.",
            summary.to_json(),
            _points(summary),
        )
    ]
    drawn += [
        dataclasses.replace(figure, name=f"{figure.name}{suffix}")
        for figure in (*_along_axes(summary, runs, texts, along), *_winners(summary, runs, texts))
    ]
    curves = [
        Curves(
            row.arm,
            rows.arm_name(row.arm),
            f"{rows.labels_name(row.fraction, row.train_examples)} labels",
            run.curves(figures.CURVES),
        )
        for row, run in runs.items()
    ]
    drawn += learning_curves(curves, f"curves{suffix}")
    sure = [confidence.curve(row.arm, row_name(row), answers) for row, answers in shown.items()]
    return drawn + _confidence_figure([curve for curve in sure if curve], f"confidence{suffix}")


def _confidence_figure(curves: Sequence[confidence.Curve], name: str) -> list[Figure]:
    """None without confidences."""
    if not curves:
        return []
    caption = (
        "Left: accuracy against confidence, in ten bins; on the dotted line a student is as often "
        "right as it says. Right: accuracy on the share of the questions it is surest of."
    )
    points = [
        {"run": curve.name, "panel": panel, "x": x, "accuracy": y}
        for curve in curves
        for panel, pairs in (("calibration", curve.bins), ("coverage", curve.coverage))
        for x, y in pairs
    ]
    return [Figure(name, figures.confidence(curves, "Confidence"), caption, points, points)]


def _along_axes(
    summary: Summary, runs: Mapping[Row, Run], texts: StudyTexts, along: str
) -> Iterator[Figure]:
    """Accuracy against model size and alpha, where they vary or the teacher's size is known."""
    teacher = texts.teacher_parameters
    alphas = {
        row.arm: float(part.removeprefix("alpha "))
        for row in runs
        for part in row.arm.split("@")[1:]
        if part.startswith("alpha ")
    }
    for name, axis, logarithmic, places, teacher_at in (
        ("size", "parameters of the student", True, costs.sizes(runs), teacher),
        ("alpha", "alpha", False, alphas, None),
    ):
        if len(set(places.values())) + (teacher_at is not None) < 2 or not places:
            continue
        title = f"{texts.title}: accuracy against {axis}"
        picture = figures.accuracy_along(summary, places, axis, logarithmic, title, teacher_at)
        caption = f"Test accuracy with the most labels against {axis}. {along}."
        if teacher_at is not None:
            caption += " The star is the teacher at its own size."
        points = [{axis: places[p["arm"]], **p} for p in _points(summary) if p["arm"] in places]
        yield Figure(name, picture, caption, points, points)


def _winners(summary: Summary, runs: Mapping[Row, Run], texts: StudyTexts) -> Iterator[Figure]:
    """Least data against size; nothing where no difference with the teacher can be read."""
    sizes = costs.sizes(runs)
    least = {arm: fraction for arm, fraction in summary.least_data().items() if arm in sizes}
    if not least:
        return
    title = f"{texts.title}: least data shown to beat the teacher"
    picture = figures.smallest_winners(summary, sizes, texts.teacher_parameters, title)
    caption = (
        "The least training questions with which each student is shown to beat the teacher, "
        "against its parameters: lower and further left is better; a hollow mark won with none."
    )
    points = [
        {
            "arm": arm,
            "parameters": sizes[arm],
            "fraction": fraction,
            "train_examples": None if fraction is None else summary.labels[fraction],
        }
        for arm, fraction in least.items()
    ]
    yield Figure("winners", picture, caption, points, points)


def _points(summary: Summary) -> list[dict[str, Any]]:
    return [
        {
            "arm": cell.arm,
            "fraction": cell.fraction,
            "train_examples": cell.train_examples,
            "seeds": cell.accuracy.seeds,
            "test_questions": cell.test_questions,
            "accuracy": cell.accuracy.mean,
            "low": cell.accuracy.low,
            "high": cell.accuracy.high,
        }
        for cell in summary.cells
    ]


def learning_curves(curves: Sequence[Curves], name: str) -> list[Figure]:
    """The learning curves; none where nothing was logged."""
    curves = [curve for curve in curves if curve.points]
    if not curves:
        return []
    caption = (
        "Training losses per task and accuracy on validation against the update; of several seeds "
        "their mean, in a band from the lowest to the highest."
    )
    data = [dataclasses.asdict(curve) for curve in curves]
    points = [
        {"arm": c.arm, "label": c.label, "row": c.row, "metric": m, "step": step, "value": value}
        for c in curves
        for m, of_metric in c.points.items()
        for step, value in of_metric
    ]
    picture = figures.learning_curves(curves, "Learning curves")
    return [Figure(name, picture, caption, data, points)]
