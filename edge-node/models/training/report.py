"""Joins the figures of both parts into the manifests and REPORT.md."""

import json

import manifest
from data import CACHE
from graph import MODELS
from runtime import AUDITOR, GENERATORS
from stage import LOG
from training import SEED

DEFAULT = "small"
AUDITOR_KEYS = ("accept_below_ppm", "reject_above_ppm", "near_duplicate_ppm", "drift_window", "drift_alarm_ppm")


def figures(part):
    return json.loads((CACHE / f"figures-{part}.json").read_text())


def write_manifests(generators, auditor):
    manifest.write(MODELS / "relics", "relics", "generator", SEED, DEFAULT, [
        manifest.Variant(name, GENERATORS[name], name == "exact", name != "exact", f["cost_us"], f["quality"],
                         f["distance"], f["backend_tolerance"]) for name, f in generators.items()])
    manifest.write(MODELS / "relics-auditor", "relics-auditor", "auditor", SEED, "full", [
        manifest.Variant("full", AUDITOR, False, False, auditor["cost_us"], auditor["quality"], 0.0, 0.0)],
        {key: auditor[key] for key in AUDITOR_KEYS}, auditor["references"][DEFAULT], auditor["references"])


def stage_table():
    """Wall and processor time of every stage that has run; none before report.py itself ends."""
    rows = [json.loads(line) for line in LOG.read_text().splitlines()] if LOG.exists() else []
    if not rows:
        return []
    first, wall, reached = min(r["begun"] for r in rows), 0.0, 0.0
    for row in sorted(rows, key=lambda r: r["begun"]):
        wall += max(0.0, row["begun"] + row["wall_s"] - max(row["begun"], reached))
        reached = max(reached, row["begun"] + row["wall_s"])
    lines = ["## What making it took", "",
             "Stages that overlap ran side by side, each on one thread (the data on two). The wall time depends on what else "
             "the machine does, and counts when any stage ran; the processor time hardly.", "",
             "| stage | begun at, s | wall, s | processor, s |", "| --- | --- | --- | --- |"]
    lines += [f"| {r['stage']} | {r['begun'] - first:.0f} | {r['wall_s']:.0f} | {r['processor_s']:.0f} |" for r in rows]
    lines += [f"| **all** | | **{wall:.0f}** | **{sum(r['processor_s'] for r in rows):.0f}** |", ""]
    return lines


def main():
    generators, auditor = figures("generator"), figures("auditor")
    write_manifests(generators["manifest"], auditor["manifest"])
    total = sum(path.stat().st_size for path in (*GENERATORS.values(), AUDITOR))
    lines = ["# Report on the models", "",
             "Written by `training/report.py` from the committed ONNX files, with ONNX Runtime on one thread. "
             f"All ONNX files together: {total} bytes.", ""]
    lines += generators["lines"] + auditor["lines"] + [""] + stage_table()
    (MODELS / "REPORT.md").write_text("\n".join(lines).rstrip("\n") + "\n")


if __name__ == "__main__":
    main()
