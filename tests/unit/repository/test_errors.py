"""The catalogue of errors says what the code says."""

from tests import errors


def test_the_catalogue_is_that_of_the_code():
    assert errors.PAGE.read_text("utf-8") == errors.page(), "make it again: python -m tests.errors"


def test_every_kind_of_error_is_met_somewhere():
    assert {kind for kind, _, _ in errors.found()} == set(errors.kinds())
