"""Eight CPU devices for every test, and the fixtures that several test folders share."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # noqa: E402  (the platform must be chosen first)

if os.environ["JAX_PLATFORMS"] == "cpu":
    jax.config.update("jax_num_cpu_devices", 8)

import pathlib  # noqa: E402

import pytest  # noqa: E402

from pd_jax import compilation  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Compiles equal programs once a session; processes that tests start share the folder."""
    # With several workers each one's folder lies in the session's common one.
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    os.environ["PD_JAX_CACHE"] = str(folder / "compiled")
    compilation.use_cache()


@pytest.fixture(scope="session")
def data_folder() -> pathlib.Path:
    """Returns the folder of real development data; skips the test where it is missing."""
    folder = pathlib.Path(os.environ.get("PD_JAX_DATA", ROOT / ".." / "shared" / "data")).resolve()
    if not (folder / "tasks" / "sst2").is_dir():
        pytest.skip(f"no development data in {folder}; name its folder with PD_JAX_DATA")
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests that read development data."""
    for item in items:
        if "data_folder" in getattr(item, "fixturenames", ()):
            item.add_marker("data")
