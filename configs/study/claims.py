"""A study's claims: one place of its grid against another, seed by seed."""

from collections.abc import Iterable


def minus(first: dict, second: dict, at: str, *, weight: float = 1.0) -> dict:
    """Returns the contrast of one place and another, seed by seed."""
    terms = ({"weight": weight, "axes": first}, {"weight": -weight, "axes": second})
    return {"at": at, "terms": terms}


def better(better_one: str, other: str, places: Iterable[dict], *, text: str = "") -> dict:
    """Returns the claim that one method is better than another at all places together."""
    contrasts = tuple(
        minus({"method": better_one, **place}, {"method": other, **place}, where(place))
        for place in places
    )
    return {"text": text or f"{better_one} > {other}", "contrasts": contrasts}


def where(place: dict) -> str:
    """Returns a place's values in words."""
    return ", ".join(
        value if isinstance(value, str) else f"{name} {value:,}" for name, value in place.items()
    )


def ranked(pairs: Iterable[tuple[str, str]], places: Iterable[dict]) -> list[dict]:
    """Returns the claim that the first method of each pair is better than the second."""
    places = list(places)
    return [better(first, second, places) for first, second in pairs]
