"""The compile report reads what ptxas prints, and refuses a spill that nobody has accepted."""

import sys

import compile_report

PRINTED = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z5firstPf' for 'sm_90a'
ptxas info    : Function properties for _Z5firstPf
    16 bytes stack frame, 12 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 16 bytes cumulative stack size, 2048 bytes smem
ptxas info    : Compiling entry function '_Z6secondPf' for 'sm_90a'
ptxas info    : Function properties for _Z6secondPf
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 32 registers, used 0 barriers
"""


def test_rows():
    first, second = compile_report.parse(PRINTED)
    assert (first["kernel"], first["arch"]) == ("_Z5firstPf", "sm_90a")
    assert (first["registers"], first["shared"], first["stack"]) == (255, 2048, 16)
    assert (first["spill_stores"], first["spill_loads"]) == (12, 8)
    assert (second["registers"], second["shared"], second["spill_stores"]) == (32, 0, 0)


def test_spills_fail_unless_accepted(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sys, "argv", ["report", "--json", str(tmp_path / "report.json")])
    monkeypatch.setattr(compile_report, "compile_one", lambda *_: compile_report.parse(PRINTED))
    assert compile_report.main() == 1
    assert "error: first spills 20 bytes for sm_90a" in capsys.readouterr().out
    monkeypatch.setitem(compile_report.ACCEPTED_SPILLS, "^first$", "a planted one")
    assert compile_report.main() == 0
