"""Saved tiny models of all three classes."""

import pytest

from tests.models.conftest import KINDS, build  # noqa: F401  (a fixture)


@pytest.fixture(scope="session")
def save(build, clip_folder, tmp_path_factory):  # noqa: F811
    def save(kind):
        """Folder with a model and its processor."""
        folder = tmp_path_factory.mktemp("saved") / kind
        build(kind).save_pretrained(folder)
        KINDS[kind][1].from_pretrained(clip_folder).save_pretrained(folder)
        return folder

    return save


@pytest.fixture(scope="session", params=["contextcir", "instructcir", "combiner"])
def saved(request, save):
    """Folder of a model of each class."""
    return save(request.param)


@pytest.fixture(scope="session")
def saved_contextcir(save):
    return save("contextcir")
