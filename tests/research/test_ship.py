"""The model that ships: its card is that of its run, and a run ships whole."""

import json

from research import ship


def test_the_shipped_card_is_that_of_its_record():
    text = (ship.SHIPPED / "README.md").read_text()
    assert ship.card(ship.SHIPPED, ship.head_of(text)) == text
    assert "figures/" not in text and "auto_map" not in (ship.SHIPPED / "config.json").read_text()


def test_a_run_ships_without_its_code(tmp_path):
    run = tmp_path / "run"
    ship.ship(ship.SHIPPED, run, "# scenes-contextcir-tiny\n\nA head.\n")
    config = json.loads((run / "config.json").read_text()) | {"auto_map": {"AutoModel": "code.Model"}}
    (run / "config.json").write_text(json.dumps(config))
    (run / "modeling.py").write_text("")
    ship.ship(run, tmp_path / "to", ship.head_of((run / "README.md").read_text()))
    assert sorted(path.name for path in (tmp_path / "to").iterdir()) == sorted(
        ["README.md", "config.json", "model.safetensors", *ship.RECORDS]
    )
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "to" / name).read_bytes() == (ship.SHIPPED / name).read_bytes()
    assert "\n\nA head.\n\n## Results" in (tmp_path / "to" / "README.md").read_text()
