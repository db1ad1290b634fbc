"""The demo: its phases, what it says of the time, and what it says at the end."""

import json

import pytest

from research import demo


@pytest.fixture
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def measured(*found):
    return json.dumps(
        {
            "num_queries": 408,
            "gallery_size": 2000,
            "results": [{"retriever": name, "metrics": {"recall@1": value}} for name, value in found],
        }
    )


def test_every_phase_is_run_and_named_and_the_end_says_what_was_found(in_folder, monkeypatch, capsys):
    ran = []

    def run(command, log):
        ran.append(command)
        (demo.RUN / "metrics.json").write_text(measured(("ours", 20.5), ("image", 1.0), ("sum", 5.9)))
        (demo.RUN / "shipped.json").write_text(measured(("shipped", 31.6)))

    monkeypatch.setattr(demo, "run", run)
    (demo.RUN / "old").mkdir(parents=True)
    demo.main(["--triplets", "640"])
    lines, _, found = capsys.readouterr().out.strip().partition("\n\n")
    lines, (one, two, _, *pictures, search, end) = lines.splitlines(), found.splitlines()
    assert [line[:3] for line in lines if line[:1].isdigit()] == ["1/4", "2/4", "3/4", "4/4"]
    assert all("left" in line for line in lines if line[:1].isdigit())
    assert "31.6 % of 408" in one and "20.5 %" in two and "5.9 %" in two
    assert [line.split()[0] for line in pictures] == list(demo.PICTURES)
    assert "contextcir serve" in search and "demo-full" in end
    assert not (demo.RUN / "old").exists() and any("--num_train 640" in command for command in ran)


def test_a_phase_that_fails_ends_the_demo_with_its_last_lines(in_folder):
    log = in_folder / "log.txt"
    with pytest.raises(SystemExit, match=r"no such thing\n\n`python -c .*` ended with 3. The whole log"):
        demo.run("""python -c "print('no such thing'); exit(3)" """, log)
    assert log.read_text().startswith("\n$ python")


def test_commands_of_the_demo_are_those_that_there_are():
    from contextcir.cli.main import COMMANDS

    for command in (command for phase in demo.phases(640, 2) for command in phase.commands):
        words = command.split()
        assert words[0] == "accelerate" or words[1] in COMMANDS
