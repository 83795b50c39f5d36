"""The report: every number from a file, the three forms agreeing, and nothing that can be typed in."""

import ast
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sage.bench.experiments import read_preset, run_experiment
from sage.bench.report import document, values
from sage.bench.report.build import check_report, make_report
from sage.bench.report.document import prose
from sage.bench.report.evidence import gather
from sage.bench.report.latex import escaped
from sage.bench.report.sections import SECTIONS
from sage.bench.report.values import FORMS, OPERATIONS, Files, Read, Shown, Value, computed, evaluated
from sage.bench.results import Axis, open_experiment, read_experiment, write_json
from sage.bench.suites.experiments import EXPERIMENTS
from sage.errors import InputError, InternalError

pytest.importorskip("matplotlib")

REPORT = Path(values.__file__).parent


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run of every experiment, in virtual time."""
    folder = tmp_path_factory.mktemp("base") / "results"
    for name in EXPERIMENTS:
        quick = read_preset(name, "quick", jobs=8, concurrency=(1, 2) if name == "concurrency" else (2,))
        bursts = None if quick.bursts is None else msgspec.structs.replace(quick.bursts, size=2, count=2)
        changes: dict[str, Any] = {
            "nodes": quick.nodes[:2],
            "pipelines": quick.pipelines[:2],
            "bursts": bursts,
        }
        if name in {"concurrency", "complexity", "nodes"}:
            changes["workloads"] = ("rag",)
        run_experiment(name, msgspec.structs.replace(quick, **changes), folder / name, preset_name="quick")
    return folder


@pytest.fixture(scope="module")
def report(results: Path) -> Path:
    """The report of all of it, beside the results."""
    make_report([results], results.parent / "report")
    return results.parent / "report"


@pytest.fixture
def copied(report: Path, tmp_path: Path) -> Path:
    """The report and its results, to be tampered with."""
    shutil.copytree(report.parent, tmp_path / "base")
    return tmp_path / "base" / "report"


# ---- what is made


def test_every_number_agrees_with_its_file_and_between_the_forms(report: Path) -> None:
    found = check_report(report)
    assert not found.faults
    assert found.values > 100
    assert found.places > found.values
    assert found.figures > 5


def test_the_page_needs_nothing_else(report: Path) -> None:
    page = (report / "report.html").read_text()
    assert not re.search(r'(?:src|href)="(?:https?:)?//', page)
    assert "<svg" in page
    assert "@import" not in page


def test_ids_on_the_page_are_unique(report: Path) -> None:
    ids = re.findall(r'\sid="([^"]+)"', (report / "report.html").read_text())
    assert len(ids) == len(set(ids))


def test_the_raw_files_that_the_page_links_are_there(report: Path) -> None:
    links = re.findall(r'<a href="([^"#][^"]*)"', (report / "report.html").read_text())
    assert links
    assert all((report / link).is_file() for link in links)


def test_figures_come_in_three_forms(report: Path) -> None:
    drawn = {path.name for path in (report / "figures").iterdir()}
    stems = {name.rpartition(".")[0] for name in drawn}
    assert drawn == {f"{stem}.{ending}" for stem in stems for ending in ("svg", "pdf", "png")}


def test_the_same_results_give_the_same_report(results: Path, tmp_path: Path) -> None:
    for name in ("one", "other"):
        make_report([results / "stagger"], tmp_path / name)
    for file in ("report.html", "section.tex", "tables.tex", "figures/stagger-stagger-rag.pdf"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "other" / file).read_bytes()


def test_missing_experiments_are_named_as_missing(results: Path, tmp_path: Path) -> None:
    made = make_report([results / "stagger"], tmp_path)
    assert made.parts == ("stagger",)
    page = (tmp_path / "report.html").read_text()
    assert "Concurrency: no results were given" in page
    assert "They are missing here, not estimated" in (tmp_path / "section.tex").read_text()


def test_measured_and_simulated_results_have_tables_of_their_own(results: Path, tmp_path: Path) -> None:
    preset = read_preset("nodes", "quick", jobs=4, concurrency=(2,), workloads=("rag",), engines="http")
    small = msgspec.structs.replace(preset, nodes=(1, 2), scaling=("per_node",))
    run_experiment("nodes", small, tmp_path / "results" / "nodes-http")
    shutil.copytree(results / "nodes", tmp_path / "results" / "nodes")
    make_report([tmp_path / "results"], tmp_path / "report")
    tables = (tmp_path / "report" / "tables.tex").read_text()
    captions = re.findall(r"\\caption\{(Node scaling[^.]*)", tables)
    assert [caption.split(", ")[1].split(".")[0] for caption in captions] == ["measured", "simulated"]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex here")
def test_a_stock_latex_sets_the_paper(report: Path, tmp_path: Path) -> None:
    shutil.copytree(report, tmp_path / "paper")
    line = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(line, cwd=tmp_path / "paper", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull \\hbox" not in done.stdout


def test_policies_are_drawn_on_spokes_and_named_by_their_presets(tmp_path: Path) -> None:
    with open_experiment(
        tmp_path / "policies", "policies", kind="simulated", config={}, preset="quick"
    ) as folder:
        for place, policy in enumerate(("admit=max_inflight(jobs=9),place=round_robin", "order=edf")):
            for seed in range(3):
                axes: dict[str, Axis] = {"policy": policy, "share": 0.95}
                with folder.running(f"cell-{place}-{seed}", axes=axes, repeat=seed) as cell:
                    figures = {
                        "jobs_per_s": 2.0 + seed,
                        "in_time": {"share": 0.5 + place / 4},
                        "e2e_sched_s": {"mean": 1.0, "p50": 1.0, "p99": 4.0},
                    }
                    write_json(cell / "summary.json", {"figures": figures, "decision_us": {"mean": 9.0}})
    made = make_report([tmp_path / "policies"], tmp_path / "report")
    assert made.figures == ("policies-policies",)
    section = (tmp_path / "report" / "section.tex").read_text()
    assert "Figures without event logs: policies" in section
    drawn = msgspec.json.decode((tmp_path / "report" / "values.json").read_bytes())["figures"]
    assert set(drawn["policies-policies"]["values"]) == {"fifo", "order=edf"}


def test_files_of_benchmarks_are_tables(tmp_path: Path) -> None:
    root = REPORT.parents[3] / "results"
    made = make_report([root / "overhead", root / "peers"], tmp_path)
    assert made.parts == ("overhead", "peers")
    assert "missed" in (tmp_path / "tables.tex").read_text()


# ---- what is refused


def test_a_number_that_was_changed_in_the_paper_is_found(copied: Path) -> None:
    section = copied / "section.tex"
    section.write_text(re.sub(r"(\\sageval\{v\d+\}\{)\d", r"\g<1>9", section.read_text(), count=1))
    assert any("section.tex" in fault and "its file gives" in fault for fault in check_report(copied).faults)


def test_a_number_that_was_typed_into_the_paper_is_found(copied: Path) -> None:
    with (copied / "abstract.tex").open("a") as file:
        file.write("It is 3.7 times faster.\n")
    assert any("'3.7', which comes from no file" in fault for fault in check_report(copied).faults)


def test_a_result_that_was_changed_afterwards_is_found(copied: Path) -> None:
    cell = read_experiment(copied.parent / "results" / "nodes").cells[0]
    summary = cell.path / "summary.json"
    summary.write_text(summary.read_text().replace('"jobs_per_s": ', '"jobs_per_s": 1'))
    faults = check_report(copied).faults
    assert any("the report says" in fault for fault in faults)
    assert any("figure nodes" in fault for fault in faults)
    assert any("was changed after the report was made" in fault for fault in faults)


def test_results_that_were_changed_are_not_reported(results: Path, tmp_path: Path) -> None:
    shutil.copytree(results / "nodes", tmp_path / "nodes")
    cell = read_experiment(tmp_path / "nodes").cells[0]
    summary = cell.path / "summary.json"
    summary.write_text(summary.read_text().replace('"jobs_per_s": ', '"jobs_per_s": 1'))
    with pytest.raises(InputError, match="cannot be true"):
        make_report([tmp_path / "nodes"], tmp_path / "report")


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no results"):
        gather([tmp_path], lambda _path: None)


def test_a_folder_that_is_no_report_cannot_be_checked(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no report"):
        check_report(tmp_path)


# ---- there is no way to pass a literal


def test_a_value_cannot_be_made_by_hand() -> None:
    with pytest.raises(InternalError, match="never made by hand"):
        Value(object(), 3.7, Read("a/b.json", "c"))


@pytest.mark.parametrize("template", ["It is 3.7 times faster", "p42 of {x}", "two, 2"])
def test_text_of_ours_holds_no_number(template: str) -> None:
    with pytest.raises(InternalError, match="has a number in it"):
        prose(template, x="a")


def test_known_terms_are_no_numbers() -> None:
    assert prose("p99 with a 95 % interval") == ("p99 with a 95 % interval",)


def test_text_that_is_put_into_a_text_holds_no_number() -> None:
    with pytest.raises(InternalError, match="has a number in it"):
        prose("{how}", how="3.7 times")


def test_a_value_that_is_not_said_is_a_bug() -> None:
    with pytest.raises(InternalError, match="does not say 'rate'"):
        prose("nothing", rate="fast")


def test_only_values_makes_values() -> None:
    """Neither the key nor a way around it is used anywhere else."""
    for path in REPORT.rglob("*.py"):
        names = {node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)}
        attributes = {
            node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)
        }
        if path.name != "values.py":
            assert "_KEY" not in names | attributes, path


# ---- pieces


@pytest.fixture
def files(tmp_path: Path) -> Files:
    (tmp_path / "one.json").write_text('{"a": {"b": [1.0, 2.5]}, "name": "x", "yes": true}')
    return Files({"root": tmp_path})


def test_a_value_is_read_from_its_place(files: Files) -> None:
    value = files.sure("root/one.json", "a/b/1")
    assert (value.number, value.origin) == (2.5, Read("root/one.json", "a/b/1"))


@pytest.mark.parametrize("pointer", ["a/b/7", "a", "yes", "nothing"])
def test_where_there_is_no_number_there_is_no_value(files: Files, pointer: str) -> None:
    assert files.at("root/one.json", pointer) is None


@pytest.mark.parametrize("file", ["other/one.json", "root/../one.json"])
def test_files_outside_the_results_are_refused(files: Files, file: str) -> None:
    with pytest.raises(InputError, match="is no file of this report"):
        files.content(file)


@pytest.mark.parametrize("operation", [name for name in OPERATIONS if name != "half"])
def test_what_was_computed_can_be_computed_again(files: Files, operation: str) -> None:
    several = [files.sure("root/one.json", f"a/b/{place}") for place in range(2)]
    value = computed(operation, several)
    assert value is not None
    assert evaluated(value.origin, files) == value.number


def test_of_something_missing_nothing_is_computed(files: Files) -> None:
    assert computed("mean", [files.at("root/one.json", "a/b/0"), None]) is None
    assert computed("mean", []) is None


def test_counting_takes_texts_and_nothing_else_does(files: Files) -> None:
    name = files.sure("root/one.json", "name")
    assert computed("count", [name, name]) is not None
    with pytest.raises(InputError, match="meets a text"):
        computed("sum", [name])


@pytest.mark.parametrize(
    ("form", "number", "text"),
    [
        ("seconds", 0.01234, "12.3 ms"),
        ("seconds", 2.5, "2.50 s"),
        ("seconds", 0.00004, "40.0 \N{MICRO SIGN}s"),
        ("percent", 0.123, "12.3 %"),
        ("number", 1234.5, "1,234"),
        ("count", 5000, "5,000"),
        ("plain", 16, "16"),
    ],
)
def test_values_are_shown_in_their_unit(form: str, number: float, text: str) -> None:
    show: Callable[[Any], str] = FORMS[form]
    assert show(number) == text


def test_a_value_with_an_interval_shows_both(files: Files) -> None:
    one, other = (files.sure("root/one.json", f"a/b/{place}") for place in range(2))
    assert Shown(other, "times", one).text == "2.50 \N{PLUS-MINUS SIGN} 1.00"
    assert Shown(other, "seconds", one).text == "2.50 \N{PLUS-MINUS SIGN} 1.00 s"


def test_special_letters_are_escaped_for_latex() -> None:
    assert escaped("a_b & 5 %") == r"a\_b \& 5 \%"


def test_every_section_says_what_makes_its_results() -> None:
    assert all(section.command.startswith(("sage bench", "make bench")) for section in SECTIONS.values())


def test_terms_are_few() -> None:
    assert len(document.TERMS.pattern) < 150
