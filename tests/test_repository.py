"""The repository's own surface: the workflow, the form for issues, and the metadata of the package."""

import os
import tomllib
from importlib.metadata import metadata, version
from pathlib import Path

import pytest

import parallel_lenet

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_workflow_runs_what_contributors_run() -> None:
    yaml = pytest.importorskip("yaml")
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))["jobs"]
    assert [step["run"] for step in jobs["everything"]["steps"] if "run" in step] == [".ci/run"]
    for script in ("run", "package"):
        assert os.access(ROOT / ".ci" / script, os.X_OK)
    assert ".ci/package" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_the_form_for_issues_asks_for_what_doctor_says() -> None:
    yaml = pytest.importorskip("yaml")
    form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / "bug.yml").read_text(encoding="utf-8"))
    assert {"name", "description", "body"} <= form.keys()
    (asked,) = [part for part in form["body"] if part["id"] == "doctor"]
    assert "parallel-lenet doctor" in asked["attributes"]["label"]
    assert asked["validations"]["required"]
    assert len({part["id"] for part in form["body"]}) == len(form["body"])


def test_the_installed_version_is_the_packages() -> None:
    try:
        installed = version("parallel-lenet")
    except ModuleNotFoundError:
        pytest.skip("not installed")
    assert installed == parallel_lenet.__version__
    assert metadata("parallel-lenet")["Requires-Python"] == PROJECT["project"]["requires-python"]


def test_there_are_links_and_no_second_version() -> None:
    assert "version" not in PROJECT["project"]
    assert all(url.startswith(("http://", "https://")) for url in PROJECT["project"]["urls"].values())
