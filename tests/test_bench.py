from __future__ import annotations

import json
import platform
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo

from ikem_ext.batch_norm import draw_seed
from ikem_ext.bench import __main__ as bench
from ikem_ext.bench import (
    batch_norm,
    clock,
    compiling,
    contrast,
    large_models,
    limits,
    measure,
    models,
    processes,
    report,
    temporal_conv,
)
from ikem_ext.reference.batch_norm import dropout_mask

ROOT = Path(__file__).parent.parent
CPU = torch.device("cpu")
#: Those of single operations, and what ours is compared with.
PEERS = {
    "modalities": ["published", "vectorized"],
    "graph_conv": ["published", "vectorized"],
    "temporal_conv": ["published"],
    "batch_norm": ["published"],
    "contrast": ["published", "vectorized", "chunked"],
}
QUICK = processes.Selection(CPU, torch.float32, quick=True, scaling=False)
MARKED = f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n"

devices = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])


def all_cases(family: str, device: torch.device, dtype: torch.dtype) -> list[measure.Case]:
    selection = processes.Selection(device, dtype, quick=True, scaling=True)
    return [case for part in selection.parts(family) for case in part(device, dtype, True)]


def dropout_as_ours(x: torch.Tensor, p: float, inplace: bool) -> torch.Tensor:
    """PyTorch's draws other bits."""
    return x * dropout_mask(draw_seed(x.device), x.shape, p).to(x) / (1 - p)


@devices
@pytest.mark.parametrize("family", PEERS)
def test_variants_agree(family: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_norm, "dropout", dropout_as_ours)
    for case in all_cases(family, torch.device(device), torch.float64):
        results = {}
        for name, run in case.variants.items():
            torch.manual_seed(0)
            results[name] = run()
        assert list(results) == ["ikem_ext", *PEERS[family]]
        for name, result in results.items():
            message = f"{case.title}, {name}: {{}}".format
            torch.testing.assert_close(result, results["ikem_ext"], rtol=1e-7, atol=1e-9, msg=message)


@devices
@pytest.mark.parametrize("family", [models, large_models])
def test_variants_of_whole_models_agree(family: Any, device: str) -> None:
    for case in family.cases(torch.device(device), torch.float64, True):
        ours, published = (run() for run in case.variants.values())
        torch.testing.assert_close(published, ours, rtol=1e-7, atol=1e-9, msg=f"{case.title}: {{}}".format)


def test_a_loss_is_compiled_once_for_any_number_of_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    functions = measure.with_compiled(contrast.EXCHANGE.functions, ["published", "vectorized"])
    assert list(functions) == [
        "ikem_ext", "published", "published, compiled", "vectorized", "vectorized, compiled", "chunked",
    ]  # fmt: skip
    loss = replace(contrast.EXCHANGE, functions=functions)
    torch._dynamo.utils.counters.clear()
    for clips in (4, 8):
        case, _ = contrast._cases("", loss, CPU, torch.float64, clips, keys=64)
        expected, *others = (run() for run in case.variants.values())
        for result in others:
            torch.testing.assert_close(result, expected)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2


@devices
@pytest.mark.parametrize("family", ["modalities", "temporal_conv"])  # with and without sweeps
def test_a_run_stores_draws_and_tabulates_all_rows(family: str, device: str, tmp_path: Path) -> None:
    file, plot, document = tmp_path / "rows.json", tmp_path / "bench.png", tmp_path / "document.md"
    document.write_text(MARKED)
    main = [family, "--device", device, "--quick", "--scaling"]
    bench.main([*main, "--json", str(file), "--plot", str(plot), "--table", str(document)])

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    stored = json.loads(file.read_text(), parse_constant=refuse)
    assert {"device", "threads", "versions", "commit", "date", "dtype"} < set(stored["machine"])
    cases = all_cases(family, torch.device(device), torch.float32)
    expected = [
        (case.family, case.name, case.passes, case.swept, case.parameters, variant)
        for case in cases
        for variant in case.variants
    ]
    rows = stored["rows"]
    keys = ("family", "case", "passes", "swept", "parameters", "variant")
    assert [tuple(row[key] for key in keys) for row in rows] == expected
    assert {row["passes"] for row in rows if not row["swept"]} == {"forward", "forward and backward"}
    for row in rows:
        lower, upper = row["quartiles_ms"]
        assert 0 < lower <= row["median_ms"] <= upper
        assert row["runs"] >= measure.FEWEST_CALLS
        assert row["extra_memory_mib"] is None or row["extra_memory_mib"] >= 0
        assert row["share_of_limit"] == pytest.approx(row["limit_ms"] / row["median_ms"])

    pictures = sorted(path.name for path in tmp_path.glob("*.png"))
    kinds = sorted({"-scaling" if case.swept else "" for case in cases}, reverse=True)
    assert pictures == [f"bench-{family}{kind}.png" for kind in kinds]
    text = document.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    passes = sum(1 for case in cases if not case.swept)
    assert text.count("\n| ") == 1 + passes  # the head, and a line for each case
    assert not list(tmp_path.glob("*.partial"))


def test_the_table_in_the_documentation_is_that_of_the_stored_rows() -> None:
    _, table, _ = report.split(ROOT / "docs" / "performance.md")
    results = ROOT / "results"
    stored = [results / "bench-cpu.json", *sorted(results.glob("bench-cpu-*.json"))]
    assert table == report.markdown([report.read_json(file) for file in stored])


def test_rows_are_drawn_and_tabulated_without_measuring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "_measured", lambda options: pytest.fail("measured"))
    file, document = tmp_path / "rows.json", tmp_path / "document.md"
    document.write_text(MARKED)
    facts, rows = report.read_json(ROOT / "results" / "bench-cpu.json")
    rows = [row for row in rows if row.family == "modalities"]
    report.write_json(file, facts, rows)
    bench.main(["--rows", str(file), "--table", str(document), "--plot", str(tmp_path / "again.svg")])
    assert report.split(document)[1] == report.markdown([(facts, rows)])
    assert (tmp_path / "again-modalities.svg").exists()


def test_cases_are_chosen_by_their_titles(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    bench.main(["graph_conv", "modalities", "--quick", "--cases", "per clip.*backward|^crop", "--json", str(file)])
    chosen = [row.case for row in report.read_json(file)[1] if row.variant == "ikem_ext"]
    assert chosen == [
        "adjacency per clip, 64 to 64 channels, 13 frames, 8 bodies",
        "adjacency per clip and channel, 64 to 64 channels, 13 frames, 8 bodies",
        *["crop, shear, six modalities, 4 clips"] * 2,
    ]
    with pytest.raises(SystemExit, match="nothing was measured: no case matches 'none'"):
        bench.main(["modalities", "--quick", "--cases", "none"])


def test_convolutions_count_taps_that_meet_frames() -> None:
    case, both = temporal_conv._cases(CPU, torch.float32, 2, 8, 13, 2, compiled=())
    assert (case.passes, both.passes) == ("forward", "forward and backward")
    met = 9 * 7 - 2 * (4 + 2)  # of seven output frames the first two and the last two lack four taps and two
    assert case.operations == 2 * 2 * 25 * 8 * 8 * met
    assert both.operations == 3 * case.operations
    x, y, weight = 2 * 8 * 13 * 25, 2 * 8 * 7 * 25, 8 * 8 * 9
    assert case.bytes_moved == 4 * (x + y + weight)
    assert both.bytes_moved == 4 * (3 * x + 2 * y + 3 * weight)


def test_large_models_are_measured_only_when_named(monkeypatch: pytest.MonkeyPatch) -> None:
    families: list[str] = []
    row = report.read_json(ROOT / "results" / "bench-cpu.json")[1][:1]

    def measured(family: str, selection: processes.Selection) -> list[list[measure.Row]]:
        assert selection.compiled == ("compiled", "max-autotune")
        families.append(family)
        return [row]

    monkeypatch.setattr(bench, "measured_apart", measured)
    for named in ([], ["large_models"]):
        families.clear()
        bench.main([*named, "--quick", "--max-autotune"])
        assert families == [*(named or processes.FAMILIES)]


def test_eager_leaves_torch_compile_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(family: str, selection: processes.Selection) -> Iterator[list[measure.Row]]:
        with compiling.compiling(*selection.compiled):
            assert list(measure.with_compiled({"ikem_ext": abs, "published": abs}, ["published"])) == expected
        yield stored

    stored = report.read_json(ROOT / "results" / "bench-cpu.json")[1][:1]
    monkeypatch.setattr(bench, "measured_apart", measured)
    expected = ["ikem_ext", "published"]
    bench.main(["contrast", "--quick", "--eager"])
    expected += ["published, compiled"]
    bench.main(["contrast", "--quick"])
    with pytest.raises(SystemExit):
        bench.main(["--eager", "--max-autotune"])


def test_an_interrupted_run_keeps_the_cases_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = report.read_json(ROOT / "results" / "bench-cpu.json")[1][:1]

    def measured(*arguments: Any) -> Iterator[list[measure.Row]]:
        yield stored
        raise KeyboardInterrupt

    monkeypatch.setattr(bench, "measured_apart", measured)
    file = tmp_path / "rows.json"
    with pytest.raises(SystemExit, match=r"interrupted: what was measured is in .*rows\.json"):
        bench.main(["--quick", "--json", str(file)])
    assert report.read_json(file)[1] == stored


class Interrupting:
    """A connection whose user presses Ctrl-C when the first case is done."""

    def send(self, rows: list[measure.Row]) -> None:
        raise KeyboardInterrupt


def end_as_interrupted(*arguments: Any) -> None:
    processes._measure_part(Interrupting(), 0, None, "modalities", QUICK)  # type: ignore[arg-type]


def test_an_interrupted_process_interrupts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_measure_part", end_as_interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(processes.measured_apart("modalities", QUICK))


def test_a_process_that_fails_is_no_end_of_the_cases() -> None:
    with pytest.raises(RuntimeError, match="a process that measured ended with status 1"):
        list(processes.measured_apart("modalities", QUICK._replace(dtype=torch.int64)))


def test_measurements_are_shared_out_and_interleaved(monkeypatch: pytest.MonkeyPatch) -> None:
    costs = {"ikem_ext": 0.001, "middle": 0.1, "slow": 0.9, "copy": 0.002, "product": 0.003}
    timed: list[str] = []
    in_rows: dict[str, int] = {}

    def seconds(run: Any, device: torch.device, in_a_row: int = 1) -> float:
        name = run() or "watched"  # what watches the memory returns nothing
        timed.append(name[0])
        in_rows[name] = in_a_row
        return costs.get(name, 0.0)

    monkeypatch.setattr(measure, "seconds_per_call", seconds)
    monkeypatch.setattr(measure, "peak_extra_memory", lambda run, device: run())
    variants = {name: partial(str, name) for name in ("ikem_ext", "middle", "slow")}
    case = measure.Case("family", "case", variants, bytes_moved=10**7, operations=10**8)
    copy, product = limits.Load(partial(str, "copy"), 2e7), limits.Load(partial(str, "product"), 3e8)
    rows = measure.measure(case, CPU, limits.Limits({limits.COPY: copy, limits.ARITHMETIC: product}), seconds=3)

    assert [row.runs for row in rows] == [100, 10, 3]
    assert {name: in_rows[name] for name in variants} == {"ikem_ext": 10, "middle": 1, "slow": 1}
    turns = "".join(timed[-123:])
    assert re.fullmatch(r"i{12,20}s(i{25,40}s){2}i{12,20}", re.sub("[mcp]", "", turns)), turns
    assert re.fullmatch(r"i{3,6}(mi{8,12}){9}mi{3,6}", re.sub("[scp]", "", turns)), turns
    assert re.fullmatch(r"i{8,12}(pci{18,22}){4}pci{8,12}", re.sub("[sm]", "", turns)), turns
    assert [row.median_ms for row in rows] == pytest.approx([1, 100, 900])
    assert [row.limit_ms for row in rows] == pytest.approx([1, 1, 1])  # by bytes and by operations alike
    assert [row.share_of_limit for row in rows] == pytest.approx([1, 0.01, 1 / 900])
    assert [row.ours_is_faster for row in rows] == pytest.approx([1, 100, 900])


@pytest.mark.skipif(platform.system() != "Linux", reason="a process's high-water mark is read from /proc")
def test_memory_is_the_peak_and_not_what_is_left() -> None:
    def run() -> torch.Tensor:
        return (torch.ones(2**23) + 1).sum()  # two arrays of 32 MiB

    run()
    assert 63 < measure.peak_extra_memory(run, CPU) < 80


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "unknown family 'nonsense'"),
        (["--cases", "N=("], "'N=(' is no regular expression: missing )"),
        (["--json", "nowhere/rows.json"], "there is no folder nowhere"),
        (["--plot", "nowhere/bench.png"], "there is no folder nowhere"),
        (["--table", "nowhere.md"], "nowhere.md"),
        (["--table", str(ROOT / "README.md")], "expected the marks"),
    ],
)
def test_bad_arguments_are_refused_before_measuring(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as error:
        bench.main(arguments)
    assert error.value.code == 2
    assert message in capsys.readouterr().err


def test_quick_calls_run_in_a_row() -> None:
    assert [measure._calls_in_a_row(seconds) for seconds in (1e-6, 1e-3, 4e-3, 1)] == [20, 10, 2, 1]
    calls: list[int] = []
    clock.seconds_per_call(lambda: calls.append(1), CPU, 3)
    assert len(calls) == 3
