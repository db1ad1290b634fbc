"""A price from the table, from the user, or none."""

import json
from datetime import date, timedelta

import pytest

from contextcir.chat.prices import FREE, TABLE, Price, price_of


def test_prices_are_per_million_tokens():
    price = Price(2.0, 10.0)
    assert price.usd(1_000_000, 0) == 2.0
    assert price.usd(0, 100_000) == 1.0
    assert FREE.usd(10**9, 10**9) == 0


def test_the_table_ignores_the_date_of_a_model():
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
    with pytest.raises(ValueError, match=f"'{model}'.*gpt-4o"):
        price_of(model)


@pytest.mark.parametrize("prices", [(-1.0, 1.0), (1.0, float("nan"))])
def test_prices_are_not_negative(prices):
    with pytest.raises(ValueError, match=f"{prices[0]} and {prices[1]}"):
        Price(*prices)


def test_every_entry_of_the_table_is_complete_and_dated():
    for name, entry in json.loads(TABLE.read_text())["models"].items():
        assert entry.keys() == {"prompt", "completion", "image_tokens", "date"}, name
        assert 0 < entry["prompt"] < entry["completion"], name


@pytest.mark.fault("M07", "a price that was looked up more than 90 days ago is a warning that names the file to edit")
@pytest.mark.parametrize(("days", "is_old"), [(-1, False), (90, False), (91, True)])
def test_old_prices(caplog, days, is_old):
    entry = json.loads(TABLE.read_text())["models"]["gpt-4o"]
    price_of("gpt-4o-2024-08-06", today=date.fromisoformat(entry["date"]) + timedelta(days))
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == is_old
    assert not is_old or all(text in said[0] for text in ("91 days", entry["date"], str(TABLE), "--usd_per_million"))
