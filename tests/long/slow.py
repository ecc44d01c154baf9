"""Runs the tests marked slow and stores what came out.

python tests/long/slow.py        # some minutes; writes experiments/results/slow_tests.csv
"""

import csv
import pathlib
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree

ROOT = pathlib.Path(__file__).resolve().parents[2]
RESULTS = ROOT / "experiments" / "results" / "slow_tests.csv"


def main(arguments: list[str]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        report = pathlib.Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-m", "slow and not network", "-q"]
        command += ["--timeout=1800", f"--junitxml={report}", *arguments]
        code = subprocess.run(command, cwd=ROOT, check=False).returncode
        cases = list(ElementTree.parse(report).iter("testcase"))
    git = ["git", "describe", "--always", "--dirty=+"]
    revision = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=True)
    with RESULTS.open("w", newline="", encoding="utf-8") as f:
        writer = csv.writer(f, lineterminator="\n")
        writer.writerow(["test", "outcome", "seconds", "revision"])
        for case in cases:
            bad = {child.tag for child in case} & {"failure", "error", "skipped"}
            name = f"{case.get('classname')}::{case.get('name')}"
            outcome = next(iter(bad), "passed")
            writer.writerow([name, outcome, case.get("time"), revision.stdout.strip()])
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
