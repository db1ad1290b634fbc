"""A price of the table, of the user's own, or none."""

import json

import pytest

from contextcir.chat.prices import FREE, TABLE, Price, price_of


def test_tokens_cost_by_the_million():
    price = Price(2.0, 10.0)
    assert price.usd(1_000_000, 0) == 2.0
    assert price.usd(0, 100_000) == 1.0
    assert FREE.usd(10**9, 10**9) == 0


def test_the_table_knows_a_model_with_and_without_its_date():
    price = price_of("gpt-4o")
    assert (price.prompt, price.completion) == (2.5, 10.0)
    assert "prices.json of 20" in price.source
    assert price_of("gpt-4o-2024-08-06") == price
    assert price_of("gpt-4o-mini").prompt < price.prompt


def test_batches_cost_half():
    single, batch = price_of("gpt-4o"), price_of("gpt-4o", batch=True)
    assert (batch.prompt, batch.completion) == (single.prompt / 2, single.completion / 2)
    assert batch.image_tokens == single.image_tokens


@pytest.mark.parametrize("model", ["llama", "gpt-4o-audio", "my-gpt-4o"])
def test_an_unknown_model_has_no_price(model):
    with pytest.raises(ValueError, match=f"no price for '{model}' .*gpt-4o.* say that it is free"):
        price_of(model)


def test_a_table_of_ones_own(tmp_path):
    entry = {"prompt": 1, "completion": 2, "image_tokens": 3, "date": "2030-01-01"}
    (tmp_path / "mine.json").write_text(json.dumps({"batch_factor": 0.5, "models": {"mine": entry}}))
    assert price_of("mine", table=tmp_path / "mine.json") == Price(1, 2, 3, "mine.json of 2030-01-01")


def test_prices_are_not_negative():
    with pytest.raises(ValueError, match="must not be negative"):
        Price(-1.0, 1.0)
    with pytest.raises(ValueError, match="must not be negative"):
        Price(1.0, float("nan"))


def test_every_entry_of_the_table_is_whole_and_dated():
    for name, entry in json.loads(TABLE.read_text())["models"].items():
        assert entry.keys() == {"prompt", "completion", "image_tokens", "date"}, name
        assert 0 < entry["prompt"] < entry["completion"], name
