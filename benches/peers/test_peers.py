"""Tests of what peers computes: parsing, turns, bars, shares, tables, the record. Nothing is started."""

import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import bars  # noqa: E402
import chip  # noqa: E402
import comparison  # noqa: E402
import machine  # noqa: E402
import offline  # noqa: E402
import real_models  # noqa: E402
import record  # noqa: E402
import tables  # noqa: E402


def online(name, users, rate, **more):
    figures = {"ttft": 50.0, "ttft99": 100.0, "itl": 5.0, "itl99": 6.0, "e2e": 700.0}
    figures |= {"memory": 300.0, "idle": 0.001, "ready": 0.1, "prompt_tokens": 126.0}
    figures |= {"requests": 8, "seconds": 8 * 128 / rate, "failures": 0, "foreign_cores": 0.0}
    row = {"part": "online", "name": name, "users": users, "round": 1, "rate": rate}
    return {**row, **figures, **more}


def decode(name, batch, rate, file="Q4_1", **more):
    row = {"part": "offline", "name": name, "file": file, "phase": "decode", "batch": batch}
    return {**row, "rate": rate, "round": 1, "foreign_cores": 0.0, **more}


def bar_of(text):
    (bar,) = [bar for bar in bars.SMALL_MODEL if bar.text == text]
    return bar


def test_llama_cpps_programs_are_read():
    bench = json.dumps([{"n_prompt": 512, "avg_ts": 1497.4}])
    assert offline.parse_llama_bench(bench) == [{"phase": "prefill", "batch": 1, "rate": 1497.4}]
    lines = 'loading\n{"pl": 1, "speed_tg": 190.5}\n\n{"pl": 32, "speed_tg": 680.0}\n'
    rows = [(row["batch"], row["rate"]) for row in offline.parse_batched_bench(lines)]
    assert rows == [(1, 190.5), (32, 680.0)]


def test_quires_program_is_read():
    shares = {"memory_share": 0.6, "arithmetic_share": 0.1}
    figure = {"phase": "decode", "batch": 1, "tokens_per_second": 400.0, "milliseconds": 2.5}
    rows, limits = offline.parse_quire({"figures": [figure | shares], "limits": {"cpu": "x"}})
    assert rows == [{"phase": "decode", "batch": 1, "rate": 400.0, **shares}]
    assert limits == {"cpu": "x"}


def test_the_better_limit_of_all_runs_counts():
    known = {"cpu": "x", "read_gb_s": 80.0, "int8_gop_s": None}
    new = {"cpu": "x", "read_gb_s": 70.0, "int8_gop_s": 2000.0}
    assert offline.better_limits(known, new) == {**new, "read_gb_s": 80.0}


def test_own_time_is_that_of_the_tree():
    lines = [
        "1 (init) S 0 1 1 0 -1 0 0 0 0 0 100 100 0 0 20",
        "10 (a name) with) S 1 1 1 0 -1 0 0 0 0 0 200 100 300 0 20",
        "11 (child) R 10 1 1 0 -1 0 0 0 0 0 50 50 0 0 20",
        "12 (other) R 1 1 1 0 -1 0 0 0 0 0 900 0 0 0 20",
    ]
    processes = [machine.process_of(line) for line in lines]
    assert machine.tree_seconds(processes, 10) == 700 / machine.TICKS
    assert machine.tree_seconds(processes, 99) == 0


def test_foreign_time_is_what_is_not_ours():
    ticks = machine.TICKS
    busy = machine.busy_seconds(
        f"cpu  {5 * ticks} {ticks} {2 * ticks} 999 999 7 7 {ticks} 0 0\ncpu0"
    )
    assert busy == 9.0
    before, after = machine.Snapshot(100.0, 9.0, 3.0), machine.Snapshot(110.0, 28.0, 20.0)
    assert before.foreign_cores(after) == 0.2
    assert before.foreign_cores(machine.Snapshot(110.0, 10.0, 20.0)) == 0.0


def test_threads_that_ended_take_nothing_off():
    before, after = {"1": 100, "2": 5000}, {"1": 130, "3": 20}
    assert machine.nanoseconds_between(before, after) == 50


def test_turns_alternate_and_begin_and_end_with_quire_in_one_round():
    quire = bars.OURS
    assert comparison.turns(1, ["a"]) == [(quire, 1), ("a", 1), (quire, 2)]
    assert comparison.turns(2, ["a"]) == [(quire, 1), ("a", 1), (quire, 2), ("a", 2)]
    assert comparison.turns(1, []) == [(quire, 1)]


def test_formats_are_chosen_by_figure_or_by_offline_decode():
    rows = [online("a", 32, 400.0, ttft99=3000.0), online("b", 32, 390.0, ttft99=2000.0)]
    assert comparison.best_of(rows, {bars.RATE}) == ["a"]
    assert set(comparison.best_of(rows, {bars.RATE, bars.TTFT99})) == {"a", "b"}
    rows = [
        decode("a", 1, 190.0),
        decode("b", 1, 110.0),
        decode("a", 32, 600.0),
        decode("b", 32, 690.0),
    ]
    rows.append(decode(bars.OURS, 1, 400.0))
    assert comparison.near_the_fastest(rows, ["a", "b"], 4) == ["a"]
    assert comparison.near_the_fastest(rows, ["a", "b"], 64) == ["a", "b"]
    assert comparison.near_the_fastest([], ["a", "b"], 1) == ["a", "b"]


def test_a_bar_is_held_against_the_best_peer_by_medians():
    bar = bar_of("1 user, output")
    rows = [online(bars.OURS, 1, rate) for rate in [400.0, 500.0, 460.0]]
    rows += [online("llama.cpp Q4_1", 1, 136.0), online("llama.cpp Q4_0", 1, 184.0)]
    (found,) = bars.judge(bar, rows)
    assert (found.peer, found.ours, found.ratio, found.state) == (
        "llama.cpp Q4_0",
        460.0,
        2.5,
        "met",
    )
    (found,) = bars.judge(bar, [*rows, online("x", 1, 200.0)])
    assert (found.peer, found.state) == ("x", "NOT MET")


def test_less_is_better_for_times_and_memory():
    bar = bar_of("32 users, TTFT p99")
    rows = [online(bars.OURS, 32, 1.0, ttft99=900.0), online("vLLM", 32, 1.0, ttft99=1000.0)]
    rows.append(online("llama.cpp", 32, 1.0, ttft99=2000.0))
    (found,) = bars.judge(bar, rows)
    assert (found.peer, found.ratio, found.state) == ("vLLM", 0.9, "NOT MET")
    (ready,) = bars.judge(bar_of("32 users, ready after"), rows)
    assert (ready.ratio, ready.state, ready.bar.wanted()) == (1.0, "met", "≤ 0.30 s")


def test_disturbed_and_failed_rows_count_in_no_bar():
    bar = bar_of("1 user, output")
    peer = online("llama.cpp", 1, 100.0)
    (found,) = bars.judge(bar, [peer, online(bars.OURS, 1, 900.0, foreign_cores=0.5)])
    assert found.state == "not valid: disturbed"
    (found,) = bars.judge(
        bar, [peer, online(bars.OURS, 1, 900.0, failures=1), online(bars.OURS, 1, 300.0)]
    )
    assert found.ours == 300.0
    assert bars.judge(bar, [peer])[0].state == "not measured"
    assert bars.judge(bar, [online(bars.OURS, 1, 1.0)])[0].state == "no peer measured"


def test_scouts_count_in_no_bar():
    rows = [online(bars.OURS, 32, 1500.0, memory=290.0), online("a", 32, 500.0, memory=900.0)]
    rows.append(online("b", 32, 800.0, memory=600.0, scout=True))
    for bar in [bar_of("32 users, output"), bar_of("32 users, peak memory")]:
        (found, *_) = bars.judge(bar, rows)
        assert (found.peer, found.state) == ("a", "met")


def test_a_peer_that_was_not_run_is_scaled_from_the_record():
    bar = bars.online_bar(16, 3.0, {"llama.cpp": 400.0, "vLLM": 500.0})
    rows = [online(bars.OURS, 16, 1700.0), online("llama.cpp Q4_0", 16, 480.0)]
    here, estimate = bars.judge(bar, rows)
    assert here.state == "met"
    assert (estimate.peer, estimate.peer_value) == ("vLLM, from the record", 600.0)
    assert estimate.state == "NOT MET"
    assert len(bars.judge(bar, [*rows, online("vLLM bf16", 16, 490.0)])) == 1


def test_types_are_held_against_the_same_file():
    one, many = bars.of_types(["Q6_K"])
    rows = [decode(bars.OURS, 1, 130.0, "Q6_K"), decode("llama.cpp", 1, 100.0, "Q6_K")]
    rows.append(decode("llama.cpp", 1, 500.0, "Q4_0"))
    assert bars.judge(one, rows)[0].state == "met"
    assert bars.judge(many, rows)[0].state == "not measured"


def test_online_shares_are_of_the_chip_that_offline_met():
    prefill = {"phase": "prefill", "memory_share": 0.01, "arithmetic_share": 0.5}
    rows = [decode(bars.OURS, 1, 4000.0, **prefill) | {"phase": "prefill"}]
    rows.append(decode(bars.OURS, 1, 500.0, memory_share=0.5, arithmetic_share=0.05))
    rows.append(decode(bars.OURS, 32, 2000.0, memory_share=0.1, arithmetic_share=0.2))
    rows.append(online(bars.OURS, 1, 400.0, prompt_tokens=128.0))
    rows.append(online(bars.OURS, 32, 1000.0, prompt_tokens=128.0, ttft99=1024.0))
    # 400 steps a second of 1 ms of reading each.
    assert abs(chip.share(bar_of("1 user, output"), rows) - 0.4) < 1e-9
    # 1000 outputs at 0.1 ms and as many prompt tokens at 0.125 ms.
    assert abs(chip.share(bar_of("32 users, output"), rows) - 0.225) < 1e-9
    assert abs(chip.share(bar_of("32 users, TTFT p99"), rows) - 32 * 128 * 0.125e-3 / 1.024) < 1e-9
    assert chip.share(bar_of("32 users, peak memory"), rows) is None
    assert chip.share(bar_of("decode of 32, offline"), rows) == 0.2


def test_the_report_has_a_line_for_each_bar_and_says_what_was_disturbed():
    rows = [online(bars.OURS, 1, 480.0), online("llama.cpp Q4_0", 1, 160.0, foreign_cores=0.31)]
    rows += [decode(bars.OURS, 1, 480.0, memory_share=0.5, arithmetic_share=0.05)]
    text = tables.report(["# model", ""], {}, rows, bars.SMALL_MODEL)
    assert "DISTURBED: others used more than 0.1 cores during 1 of 3 figures" in text
    table = text.split("The bars:")[1].strip().splitlines()
    assert len(table) == 2 + len(bars.SMALL_MODEL)
    assert all(line.count("|") == table[0].count("|") for line in table)


def test_an_interrupted_run_goes_on_with_what_it_has(tmp_path, capsys):
    prefix = str(tmp_path / "report")
    first = record.Record(["# model"], bars.SMALL_MODEL, prefix)
    first.add(
        [online(bars.OURS, 1, 480.0)],
        {
            "read_gb_s": 80.0,
            "cpu": "x",
            "threads": 2,
            "float32_gop_s": 1.0,
            "bfloat16_gop_s": None,
            "int8_gop_s": 2.0,
        },
    )
    first.add([online("llama.cpp", 1, 100.0, foreign_cores=0.4)])
    assert "DISTURBED" in capsys.readouterr().out
    again = record.Record(["# model"], bars.SMALL_MODEL, prefix, resume=True)
    assert again.has(part="online", name=bars.OURS, users=1, round=1)
    assert not again.has(part="online", name="llama.cpp", users=1, round=1)
    again.add([online("llama.cpp", 1, 160.0)])
    assert [row["rate"] for row in again.rows] == [480.0, 160.0]
    assert "3.00×" in (tmp_path / "report.md").read_text()


def test_parts_of_a_model_are_found_in_a_wheel():
    names = ["p/data/part1.bin", "p/data/m.gguf.part-aa", "p/__init__.py", "p-1.dist-info/part"]
    assert [real_models.is_part(name) for name in names] == [True, True, False, False]
