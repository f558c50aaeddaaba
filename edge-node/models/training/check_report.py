"""Measures the committed models again and holds what comes out against REPORT.md; about five minutes.

    python check_report.py        exits 0, or names the first line of the report that does not come out again
"""

import re

import evaluate_auditor
import evaluate_generator
from graph import MODELS
from runtime import AUDITOR, GENERATORS, session

NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e-?\d+)?")
# Another machine rounds a level here and there, and some pictures fall to the other side of a limit.
TOLERANCE, RELATIVE, PICTURES = 0.03, 0.1, 10      # of shares; of anything; of whole numbers
COST = re.compile(r"\bcost\b|\bus an image\b")


def told(line, header):
    """A line's words and numbers, without its costs: the columns that the table's header calls a cost."""
    if COST.search(line):
        return None, []
    cells = line.split("|")
    cells = [cell for cell, name in zip(cells, header) if not COST.search(name)] if len(cells) == len(header) > 1 else cells
    rest = "|".join(cells)
    return NUMBER.sub("#", rest), [float(number) for number in NUMBER.findall(rest)]


def compared(lines, report):
    """Stops at the first line that the report has not, or has with other figures."""
    place, header = 0, []
    for line in lines:
        header = line.split("|") if line.startswith("|") and not header else header if line.startswith("|") else []
        words, numbers = told(line, header)
        if not line or words is None:
            continue
        found = next((at for at in range(place, len(report)) if told(report[at], header)[0] == words), None)
        if found is None:
            raise SystemExit(f"failed: REPORT.md has no line like: {line}")
        for stated, again in zip(told(report[found], header)[1], numbers):
            if abs(stated - again) > max(PICTURES if stated > 1 and stated.is_integer() else TOLERANCE, RELATIVE * stated):
                raise SystemExit(f"failed: REPORT.md says\n  {report[found]}\nand now it is\n  {line}")
        place = found + 1


def main():
    models, auditor = {name: session(path) for name, path in GENERATORS.items()}, session(AUDITOR)
    report = (MODELS / "REPORT.md").read_text().splitlines()
    for part, (_, lines) in (("generators", evaluate_generator.measured(models, auditor)), ("auditor", evaluate_auditor.measured(auditor))):
        compared([line for text in lines for line in text.splitlines()], report)
        print(f"REPORT.md: the figures of the {part} come out again", flush=True)


if __name__ == "__main__":
    main()
